"""`.keras` files that a run continues from: model, optimizer, and a `RunState` in the same file.

The state is a member of the archive, `training.json` (`unzip -p last.keras training.json`), not a
file beside it: two files cannot be replaced in one instant, and a run killed between them would
continue with the weights of one epoch and the count of another.
"""

import json
import os
import pathlib
import shutil
import warnings
import zipfile
from typing import NamedTuple

import keras

_MEMBER = "training.json"


class RunState(NamedTuple):
    """Where a run stands.

    epoch: epochs that are over.
    step: optimizer steps that are over.
    best: {"epoch": ..., "val_mask_AP": ...}, or None.
    random_states: of the model's seed generators, which Keras does not save.
    """

    epoch: int
    step: int
    best: dict | None
    random_states: list


def save(model, path, epoch, best=None):
    """Writes `model` and its RunState to `path` in one piece; True if it could.

    On OSError (full disk) the old file stays and a warning tells the reason.
    """
    state = RunState(epoch, int(model.optimizer.iterations), best, _read_random_states(model))
    path = pathlib.Path(path)
    temporary = path.with_name(f"{path.stem}.unfinished.keras")
    try:
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(_MEMBER, json.dumps(state._asdict()))
        _put_in_place(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        warnings.warn(f"{path} was not written, training goes on: {error}", stacklevel=2)
        return False
    return True


def copy(source, path):
    """Copies the checkpoint `source` over `path` in one piece; warns as `save` does."""
    path = pathlib.Path(path)
    temporary = path.with_name(f"{path.stem}.unfinished.keras")
    try:
        shutil.copyfile(source, temporary)
        _put_in_place(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        warnings.warn(f"{path} was not written, training goes on: {error}", stacklevel=2)


def restore(model, path):
    """The RunState in `path`, after its weights, optimizer and random states are in `model`.

    `model` is compiled. Raises FileNotFoundError, and ValueError for a file that is damaged, was
    not written by `save`, or belongs to another model.
    """
    state = read_state(path)
    model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
    step = int(model.optimizer.iterations)
    if step != state.step:
        raise ValueError(f"{path}: expected an optimizer at step {state.step}, received {step}")
    generators = _random_states(model)
    if len(generators) != len(state.random_states):
        raise ValueError(
            f"{path}: expected {len(generators)} random states, received {len(state.random_states)}"
        )
    for variable, value in zip(generators, state.random_states, strict=True):
        variable.assign(value)
    return state


def read_state(path):
    """The RunState in the checkpoint `path`. Raises as `restore` does."""
    try:
        with zipfile.ZipFile(path) as archive:
            return RunState(**json.loads(archive.read(_MEMBER)))
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{path} is damaged ({error}); a copy of model.keras in its place continues from the "
            f"best epoch"
        ) from error
    except KeyError as error:
        raise ValueError(f"{path}: no {_MEMBER} in it; was it written by train.py?") from error


def _put_in_place(temporary, path):
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _random_states(model):
    """The variables of the seed generators of all layers, in the model's order."""
    return [v for v in model.variables if v.name == "seed_generator_state"]


def _read_random_states(model):
    return [keras.ops.convert_to_numpy(v).tolist() for v in _random_states(model)]
