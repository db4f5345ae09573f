"""Weights to start training from, also of a model with other classes."""

import pathlib

import keras

from pac_keras.weights.files import ENDINGS
from pac_keras.weights.mmdet import load_tensors, tensors_of
from pac_keras.weights.names import names
from pac_keras.weights.rdsnet import with_refinement
from pac_keras.weights.torchvision import load_backbone, load_maskrcnn


def start_from(model, path):
    """Puts the weights of a file into `model`; layers that depend on other classes stay new.

    Args:
        model: a system.
        path: `.keras` of the same system, with the same classes or others; `.weights.h5` of the
            same model; or a checkpoint of mmdetection, its forks or torchvision (`.pth`,
            `.safetensors`, `.npz`), a detector's (see `load_mmdet`) or an ImageNet backbone's.

    Returns:
        Paths of the variables that keep their first weights.

    Raises:
        FileNotFoundError; ValueError: something other than a count of classes differs.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There are no weights {path}")
    if path.suffix == ".keras":
        return _from_keras(model, path)
    if path.suffix in ENDINGS:
        return _from_checkpoint(model, path)
    model.load_weights(path)
    return []


def _from_keras(model, path):
    source = keras.models.load_model(path, compile=False)
    if type(source) is not type(model) or len(source.weights) != len(model.weights):
        raise ValueError(
            f"{path}: expected a {type(model).__name__} with {len(model.weights)} variables, as in "
            f"the config, found a {type(source).__name__} with {len(source.weights)}"
        )
    pairs = list(zip(model.weights, source.weights, strict=True))
    other = [ours for ours, theirs in pairs if ours.shape != theirs.shape]
    _check_classes(model, {ours.path: ours for ours in other}, path)
    for ours, theirs in pairs:
        if ours.shape == theirs.shape and not _is_seed(ours):
            ours.assign(theirs)
    return [ours.path for ours in other]


def _from_checkpoint(model, path):
    tensors = tensors_of(path)
    if "conv1.weight" in tensors:
        load_backbone(model, tensors)
        loaded = {v.path for v in model.backbone.weights}
        return [v.path for v in model.weights if v.path not in loaded and not _is_seed(v)]
    if "backbone.body.conv1.weight" in tensors:
        load_maskrcnn(model, tensors)
        return []
    known, tensors = names(model), with_refinement(model, tensors)
    other = {
        name: tensor.variable
        for name, tensor in known.items()
        if name in tensors and tensor.shape() != tensors[name].shape
    }
    _check_classes(model, other, path)
    known = {name: tensor for name, tensor in known.items() if name not in other}
    tensors = {name: value for name, value in tensors.items() if name not in other}
    load_tensors(known, tensors, type(model).__name__)
    return [variable.path for variable in other.values()]


def _check_classes(model, variables, path):
    """Raises unless all `variables` {name: variable} have a shape that depends on the classes."""
    if not variables:
        return
    config = model.get_config()
    counts = ("num_classes", "num_semantic_classes")
    config |= {name: config[name] + 1 for name in counts if config.get(name)}
    twin = type(model).from_config(config)
    dependent = {
        ours.path
        for ours, theirs in zip(model.weights, twin.weights, strict=True)
        if ours.shape != theirs.shape
    }
    wrong = [name for name, variable in variables.items() if variable.path not in dependent]
    if wrong:
        raise ValueError(f"{path}: {wrong[0]} has another shape, and that is not for its classes")


def _is_seed(variable):
    return "seed" in variable.path
