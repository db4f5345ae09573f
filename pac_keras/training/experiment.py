"""What a training run consists of: one frozen `Experiment`, written down in a config file.

A config is a Python file of `configs/`: a docstring (command, expected result) and
`experiment = Experiment(...)`. `overrides.py` changes single values from the command line.
"""

import dataclasses
import difflib
import functools
import importlib.util
import inspect
import pathlib
from collections.abc import Callable

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


class ExperimentError(ValueError):
    """A config, or a command line that changes one, says something impossible."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that decides a training run. Defaults are the papers' (PAC, HTC).

    model: called with `num_classes` and `num_semantic_classes` (read from the training data)
        unless it already holds them; usually `partial(PAC, backbone="resnet50")`.
    train, valid: called with `training` and `batch_size` (and `train` with `seed`) -> Dataset;
        usually `partial(coco, JSON, IMAGES)`. `valid=None`: no evaluation.
    epochs: passes over the training data.
    batch_size: pictures in a step, over all devices.
    learning_rate: at its height, for this batch size. Nothing is scaled in secret: the papers use
        0.02 at batch 16, and 0.02 * B / 16 elsewhere (the linear rule).
    optimizer: "sgd" (momentum, L2 in the gradient) or "adamw" (decoupled decay).
    momentum: of SGD.
    weight_decay: L2 factor with "sgd", decoupled decay with "adamw".
    clip_norm: limit of the gradient's global L2 norm, or None.
    warmup_steps, warmup_factor: the rate rises linearly from warmup_factor * learning_rate.
    schedule: "step" or "cosine".
    milestones: epochs after which "step" divides the rate by ten.
    seed: of the weights, of sampling and of the order of the data.
    precision: a Keras dtype policy: "float32", "mixed_bfloat16", or "mixed_float16", where
        Keras scales the loss and passes over steps whose gradient overflows.
    evaluate_every: epochs between evaluations; the last epoch is always evaluated.
    pictures: validation pictures drawn with their predictions at each evaluation.
    boundary: evaluations also measure boundary AP and F (slower).
    checkpoint_every: steps between checkpoints within an epoch, or None; one follows every epoch.
    keep_checkpoints: how many of the newest stay.
    weights: file to start from, or None; see `pac_keras.weights.start_from`.
    """

    model: Callable
    train: Callable
    valid: Callable | None
    epochs: int = 20
    batch_size: int = 16
    learning_rate: float = 0.02
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip_norm: float | None = None
    warmup_steps: int = 500
    warmup_factor: float = 0.001
    schedule: str = "step"
    milestones: tuple[int, ...] = (16, 19)
    seed: int = 0
    precision: str = "float32"
    evaluate_every: int = 1
    pictures: int = 8
    boundary: bool = True
    checkpoint_every: int | None = 1000
    keep_checkpoints: int = 2
    weights: str | None = None

    def __post_init__(self):
        _check_choice("optimizer", self.optimizer, ("sgd", "adamw"))
        _check_choice("schedule", self.schedule, ("step", "cosine"))
        _check_choice("precision", self.precision, PRECISIONS)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not value >= least:
                raise ExperimentError(f"{name}: expected at least {least}, received {value!r}")
        if self.checkpoint_every is not None and self.checkpoint_every < 1:
            raise ExperimentError(
                f"checkpoint_every: expected at least 1 or None, received {self.checkpoint_every!r}"
            )
        if not self.learning_rate > 0:
            raise ExperimentError(f"learning_rate: expected > 0, received {self.learning_rate!r}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ExperimentError(f"clip_norm: expected > 0 or None, received {self.clip_norm!r}")
        whole = all(type(epoch) is int for epoch in self.milestones)
        if not whole or list(self.milestones) != sorted(set(self.milestones)):
            raise ExperimentError(
                f"milestones: expected ascending epochs, received {self.milestones!r}"
            )

    def build_data(self):
        """The training Dataset, and the validation Dataset or None.

        Raises ExperimentError where the data's place is not given, or is for training alone.
        """
        train = _call(
            "train", self.train, training=True, batch_size=self.batch_size, seed=self.seed
        )
        if self.valid is None:
            return train, None
        valid = _call("valid", self.valid, training=False, batch_size=self.batch_size)
        if valid.categories != train.categories:
            raise ExperimentError(
                f"valid: expected the categories of the training data, {_names(train)}, "
                f"received {_names(valid)}"
            )
        return train, valid

    def build_model(self, dataset):
        """The system for `dataset`'s classes.

        Raises ExperimentError where the config holds another class count than the data, or where
        the data has no semantic map for a branch that learns one.
        """
        function = getattr(self.model, "func", self.model)
        counts, accepted = {}, parameters(function)
        for name in ("num_classes", "num_semantic_classes"):
            if name not in accepted:  # a system without semantic branch
                continue
            given = keywords(self.model).get(name)
            counts[name] = getattr(dataset, name)
            if given is not None and given != counts[name]:
                raise ExperimentError(
                    f"model.{name}: expected {counts[name]}, as in {dataset.source.name}, "
                    f"received {given}"
                )
        if (
            counts.get("num_semantic_classes") == 0
            and keywords(self.model).get("semantic") != "none"
        ):
            raise ExperimentError(
                f"model: {function.__name__} learns a semantic map; 8 bits do not hold one of the "
                f"{dataset.num_classes} categories of {dataset.source.name}"
            )
        return self.model(**counts)


_LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "warmup_steps": 0,
    "warmup_factor": 0.0,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "evaluate_every": 1,
    "keep_checkpoints": 1,
    "pictures": 0,
}


def load_config(path):
    """The Experiment that the Python file `path` calls `experiment`.

    Raises FileNotFoundError (with the nearest file name of that folder) and ExperimentError.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        known = [other.name for other in sorted(path.parent.glob("*.py"))]
        raise FileNotFoundError(f"no config file {path}{did_you_mean(path.name, known)}")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if spec is None:
        raise ExperimentError(f"{path}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    experiment = getattr(module, "experiment", None)
    if not isinstance(experiment, Experiment):
        raise ExperimentError(
            f"{path}: expected `experiment = Experiment(...)`, received {experiment!r}"
        )
    return experiment


def describe(value):
    """`value`, an Experiment or a part of one, as what JSON can hold."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: describe(getattr(value, name)) for name in names}
    if isinstance(value, functools.partial):
        return {"call": _qualified_name(value.func)} | describe(keywords(value))
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return describe(value._asdict())
    if isinstance(value, (tuple, list)):
        return [describe(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return _qualified_name(value) if callable(value) else str(value)


def parameters(function):
    """{name: default, or inspect.Parameter.empty} of what a function or class takes by name.

    A system hands its **keywords to its base class: the names of that one are included.
    """
    if not inspect.isclass(function):
        return _named(function)[0]
    found = {}
    for base in function.__mro__:
        named, passes_on = _named(base.__init__)
        found = named | found
        if not passes_on or base.__module__.partition(".")[0] == "keras":
            break
    found.pop("self", None)
    return found


def _named(function):
    signature = inspect.signature(function).parameters.values()
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {item.name: item.default for item in signature if item.kind in by_name}
    return named, any(item.kind is inspect.Parameter.VAR_KEYWORD for item in signature)


def keywords(call):
    """{name: value} of the arguments that a `functools.partial` holds; {} of a plain function."""
    if not isinstance(call, functools.partial):
        return {}
    return dict(zip(parameters(call.func), call.args, strict=False)) | call.keywords


def did_you_mean(name, known):
    """ ", did you mean ...?" where a known name is near, else the list of known names."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if nearest:
        return f"; did you mean {nearest[0]!r}?"
    return f"; there are: {', '.join(known)}" if known else ""


def _call(field, function, **arguments):
    given = keywords(function)
    arguments = {name: value for name, value in arguments.items() if name not in given}
    missing = [
        name
        for name, default in parameters(getattr(function, "func", function)).items()
        if default is inspect.Parameter.empty and name not in given | arguments
    ]
    if missing:
        raise ExperimentError(
            f"{field}: {', '.join(missing)} is not given; pass --data (see --help)"
        )
    return function(**arguments)


def _check_choice(field, value, choices):
    if value not in choices:
        raise ExperimentError(
            f"{field}: expected one of {choices}, received {value!r}"
            f"{did_you_mean(str(value), choices)}"
        )


def _names(dataset):
    names = [category.name for category in dataset.categories]
    return f"{len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def _qualified_name(value):
    return f"{value.__module__}.{value.__qualname__}"
