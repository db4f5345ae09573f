"""Files that a run continues from: model, optimizer and a `RunState` in one `.keras` file.

The state is a member of the archive, `training.json` (`unzip -p FILE training.json`). In the run's
folder checkpoints/, `step_0000560.keras` counts from the moment that its manifest is there,
`step_0000560.json`: sha256 and size of the file, the state, settings and versions. Both are written
under another name, flushed to the disk and renamed, in this order, so that a run that is killed at
any moment, or whose disk fills up, leaves checkpoints that are whole.
"""

import hashlib
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
    epoch_step: steps of the next one that are over.
    steps_per_epoch: how many it has.
    step: optimizer steps that are over.
    best: {"epoch": ..., "val_mask_AP": ...}, or None.
    random_states: of the model's seed generators, which Keras does not save.
    means: variables of the losses' running means, for the rest of an epoch.
    """

    epoch: int
    epoch_step: int
    steps_per_epoch: int
    step: int
    best: dict | None
    random_states: list
    means: list


def state_of(model, epoch, epoch_step=0, steps_per_epoch=0, best=None):
    """The RunState of a `model` that is trained so far."""
    variables = (_random_states(model), _means(model))
    random_states, means = ([_as_list(v) for v in part] for part in variables)
    position = epoch, epoch_step, steps_per_epoch, _step(model)
    return RunState(*position, best, random_states, means)


def save(model, folder, state, about=None, keep=2):
    """Writes `model` and its RunState into checkpoints/ of a run's folder, in one piece.

    Args:
        model: compiled.
        folder: of the run.
        state: as `state_of` gives it.
        about: {name: JSON value}, kept in the manifest.
        keep: how many checkpoints stay; the oldest are deleted once the new one is whole.

    Returns:
        Its path; None after an OSError (full disk): the old ones stay, a warning tells the reason.
    """
    path = _folder(folder) / f"step_{state.step:07d}.keras"
    temporary = path.with_name("unfinished.keras")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(path.parent)
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(_MEMBER, json.dumps(state._asdict()))
        manifest = {"sha256": _sha256(temporary), "bytes": temporary.stat().st_size}
        manifest |= state._asdict() | (about or {})
        _put_in_place(temporary, path)
        temporary = path.with_name("unfinished.json")
        temporary.write_text(json.dumps(manifest, indent=2) + "\n")
        _put_in_place(temporary, path.with_suffix(".json"))
    except OSError as error:
        temporary.unlink(missing_ok=True)
        warnings.warn(f"{path} was not written, training goes on: {error}", stacklevel=2)
        return None
    for old in _manifests(folder)[keep:]:
        old.unlink()
        old.with_suffix(".keras").unlink(missing_ok=True)
    return path


def newest(folder):
    """(path or None, reasons): the newest whole checkpoint in a run's folder, and of each newer one
    a sentence that says why it is passed over."""
    reasons = []
    for manifest in _manifests(folder):
        path = manifest.with_suffix(".keras")
        try:
            told = json.loads(manifest.read_text())
            if not path.is_file():
                reasons.append(f"{path} is missing")
            elif (size := path.stat().st_size) != told["bytes"]:
                reasons.append(f"{path} has {size} bytes, expected {told['bytes']}")
            elif (found := _sha256(path)) != told["sha256"]:
                reasons.append(f"{path} is damaged: sha256 {found}, expected {told['sha256']}")
            else:
                return path, reasons
        except (ValueError, KeyError, TypeError) as error:
            reasons.append(f"{manifest} is damaged: {error!r}")
    return None, reasons


def copy(source, path):
    """Copies the checkpoint `source` over `path` in one piece; True if it could, warns if not."""
    path = pathlib.Path(path)
    temporary = path.with_name(f"{path.stem}.unfinished.keras")
    try:
        shutil.copyfile(source, temporary)
        _put_in_place(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        warnings.warn(f"{path} was not written, training goes on: {error}", stacklevel=2)
        return False
    return True


def restore(model, path):
    """The RunState in `path`, after its weights, optimizer and random states are in `model`.

    `model` is compiled. Raises FileNotFoundError, and ValueError for a file that is damaged, was
    not written by `save`, or belongs to another model.
    """
    state = read_state(path)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
    step = _step(model)
    if step != state.step:
        raise ValueError(f"{path}: expected an optimizer at step {state.step}, received {step}")
    _assign(_random_states(model), state.random_states, f"{path}: random states")
    return state


def restore_means(model, state):
    """Puts the losses' running means of an epoch that is continued back into `model`.

    After Keras has reset them, so in a callback's `on_epoch_begin`.
    """
    _assign(_means(model), state.means, "running means")


def read_state(path):
    """The RunState in the checkpoint `path`. Raises as `restore` does."""
    try:
        with zipfile.ZipFile(path) as archive:
            return RunState(**json.loads(archive.read(_MEMBER)))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path}: no {_MEMBER} in it; was it written by train.py?") from error
    except TypeError as error:
        raise ValueError(f"{path}: {_MEMBER} is of another version: {error}") from error


def _step(model):
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


def _folder(folder):
    return pathlib.Path(folder) / "checkpoints"


def _manifests(folder):
    """Paths of the manifests in a run's folder, newest first."""
    return sorted(_folder(folder).glob("step_*.json"), reverse=True)


def _remove_unfinished(folder):
    """Deletes what a killed run left: half files, and checkpoints without their manifest."""
    for path in [*folder.glob("unfinished.*"), *folder.glob("step_*.keras")]:
        if not path.with_suffix(".json").is_file() or path.stem == "unfinished":
            path.unlink()


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put_in_place(temporary, path):
    """Renames a file once its content is on the disk, and lets the disk know the new name."""
    _flush(temporary)
    os.replace(temporary, path)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        _flush(path.parent)


def _flush(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _random_states(model):
    """The variables of the seed generators of all layers, in the model's order."""
    return [v for v in model.variables if v.name == "seed_generator_state"]


def _means(model):
    """The variables of the losses' means."""
    return [variable for metric in model.metrics for variable in metric.variables]


def _as_list(variable):
    return keras.ops.convert_to_numpy(variable).tolist()


def _assign(variables, values, what):
    if len(variables) != len(values):
        raise ValueError(f"{what}: expected {len(variables)}, received {len(values)}")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
