"""Single values of an Experiment changed from the command line, checked by name and type."""

import ast
import dataclasses
import functools
import pathlib
import types
import typing
from collections.abc import Callable

from pac_keras.data import coco, coco_folder
from pac_keras.training.experiment import (
    Experiment,
    ExperimentError,
    did_you_mean,
    keywords,
    parameters,
)

_WORDS = {"true": True, "false": False, "none": None}
_PASSED_ON = {coco_folder: coco}  # a function -> where its **options go


def apply_overrides(experiment, arguments):
    """`experiment` with `["--field", "value", "--model.channels=64", ...]` applied in order.

    `--field` is a field of Experiment; `--model.NAME`, `--train.NAME` and `--valid.NAME` are
    arguments of what the field calls, and `--train.preprocessing.short_side` a field of such an
    argument. Hyphens count as underscores. Values are numbers, words, `none`, `true`, `false`, or
    tuples as `16,19`.

    Raises ExperimentError that names the option: unknown (with the nearest name), no value, or a
    value of another type than the field's.
    """
    for option, text in _pairs(arguments):
        names = option.replace("-", "_").split(".")
        experiment = _changed(experiment, names, text, option)
    return experiment


def use_data(experiment, data=None, images=None, valid=None, valid_images=None):
    """`experiment` on the user's data; what else the config says of the data stays.

    Args:
        data: folder with train.json, val.json and images/ (see `coco_folder`), or a COCO json.
        images: folder of the pictures of the json `data`.
        valid: a COCO json, a folder (its val.json), or "none": no evaluation. A json as `data`
            needs it; a folder as `data` has its own.
        valid_images: folder of the pictures of the json `valid`; `images` where not given.
    """
    if data is None and images is not None:
        raise ExperimentError("--images: expected --data JSON beside it")
    if valid_images is not None and valid is None:
        raise ExperimentError("--valid_images: expected --valid JSON beside it")
    changes = {}
    if data is not None:
        changes["train"] = _data_call("--data", data, images, "train", experiment.train)
        if valid is None and pathlib.Path(data).is_dir():
            valid = data
        elif valid is None:
            raise ExperimentError(
                f"--data {data}: a json needs --valid JSON to evaluate on, or --valid none"
            )
    if valid == "none":
        changes["valid"] = None
    elif valid is not None:
        like = experiment.valid or experiment.train
        changes["valid"] = _data_call("--valid", valid, valid_images or images, "val", like)
    return dataclasses.replace(experiment, **changes)


def _data_call(option, path, images, split, like):
    """partial of `coco` or `coco_folder` with those arguments of the partial `like` that fit."""
    path = pathlib.Path(path)
    if not path.exists():
        raise ExperimentError(f"{option}: no such file or folder: {path}")
    place = {"json", "images", "folder", "split", "semantic"}
    known = set(parameters(coco)) - place
    kept = {name: value for name, value in keywords(like).items() if name in known}
    if path.is_dir():
        return functools.partial(coco_folder, str(path), split, **kept)
    if images is None:
        raise ExperimentError(f"{option} {path}: a json needs the folder of its pictures, --images")
    return functools.partial(coco, str(path), str(images), **kept)


def _known(function):
    """`parameters`, and those of the function that its **options go to."""
    return parameters(_PASSED_ON.get(function, function)) | parameters(function)


def _pairs(arguments):
    """(name, text) pairs of `--name text` and `--name=text`."""
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        if not option.startswith("--") or len(option) == 2:
            raise ExperimentError(f"expected --field value, received {option!r}")
        name, equals, text = option[2:].partition("=")
        if not equals:
            if not rest:
                raise ExperimentError(f"{option}: expected a value after it")
            text = rest.pop(0)
        yield name, text


def _changed(target, names, text, option):
    """`target` with its part `names[0].names[1]...` read from `text`."""
    name, *deeper = names
    parts = _parts(target, option)
    if name not in parts:
        raise ExperimentError(f"--{option}: no such field{did_you_mean(name, list(parts))}")
    kinds, current = parts[name]
    value = _changed(current, deeper, text, option) if deeper else _read(text, kinds, option)
    if isinstance(target, Experiment):
        return dataclasses.replace(target, **{name: value})
    if isinstance(target, tuple):
        return target._replace(**{name: value})
    return functools.partial(getattr(target, "func", target), **(keywords(target) | {name: value}))


def _parts(target, option):
    """{name: (accepted types, current value)} of an Experiment, a NamedTuple or a call."""
    if isinstance(target, Experiment):
        hints = typing.get_type_hints(Experiment)
        return {name: (_kinds(hint), getattr(target, name)) for name, hint in hints.items()}
    if isinstance(target, tuple) and hasattr(target, "_asdict"):
        return {name: ((type(value),), value) for name, value in target._asdict().items()}
    if not callable(target):
        raise ExperimentError(f"--{option}: {target!r} has no fields")
    function = getattr(target, "func", target)
    values = _known(function) | keywords(target)
    return {name: ((type(value),), value) for name, value in values.items()}


def _kinds(hint):
    """The plain types of an annotation: `float | None` -> (float, NoneType)."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return tuple(typing.get_origin(option) or option for option in options)


def _read(text, kinds, option):
    """`text` as a value of one of the types `kinds`; of any where the type is not known."""
    value = _literal(text)
    if kinds in ((type,), (types.NoneType,)):  # no default, or None: any type
        return value
    if Callable in kinds:
        raise ExperimentError(
            f"--{option}: is code; set it in the config (--data chooses the data, "
            f"--{option}.NAME an argument)"
        )
    if tuple in kinds and not isinstance(value, tuple):
        value = tuple(text.split(",")) if isinstance(value, str) else (value,)
    if float in kinds and type(value) is int:
        value = float(value)
    if str in kinds and type(value) not in kinds:
        value = text
    if type(value) not in kinds:
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ExperimentError(f"--{option}: expected {names}, received {text!r}")
    return value


def _literal(text):
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return tuple(value) if isinstance(value, list) else value
