"""Reading checkpoint files: {name: NumPy array}."""

import pathlib
import pickle

import numpy as np

ENDINGS = (".npz", ".safetensors", ".pth", ".pt")


def read(path):
    """The tensors of a checkpoint file.

    Args:
        path: `.npz`; `.safetensors` (needs the package safetensors); `.pth` or `.pt` (needs torch;
            read with `weights_only=True`, so that no code in it runs).

    Raises:
        FileNotFoundError, ImportError, ValueError: they name the file and what is needed.
    """
    path = pathlib.Path(path)
    if path.suffix not in ENDINGS:
        raise ValueError(f"{path}: expected a file that ends with one of {', '.join(ENDINGS)}")
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    if path.suffix == ".safetensors":
        return _need("safetensors.numpy", path).load_file(path)
    return _read_torch(path)


def _read_torch(path):
    try:
        content = _need("torch", path).load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{path}: holds more than tensors, or is no file of PyTorch. Where it is trusted, save "
            "its tensors alone: torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW)"
        ) from error
    state = content.get("state_dict", content)
    tensors = {name: value for name, value in state.items() if hasattr(value, "numpy")}
    if not tensors:
        raise ValueError(f"{path}: expected a state_dict of tensors, found keys {list(state)[:5]}")
    return {name: value.numpy() for name, value in tensors.items()}


def _need(module, path):
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"{path}: to read it, `pip install {package}`, or convert it to .npz"
        ) from error
