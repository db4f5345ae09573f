"""mmdetection's checkpoints, and those of its forks, into our variables and back.

`names.py` says which tensor of theirs is which variable of ours; reading, writing and the report
of both follow from it.
"""

from typing import NamedTuple

import numpy as np

from pac_keras.weights.files import read
from pac_keras.weights.names import names
from pac_keras.weights.rdsnet import with_refinement

_COUNTER = "num_batches_tracked"


class Report(NamedTuple):
    """What a checkpoint and a model had in common.

    loaded: names whose values are now in the model.
    missing: names that the model has and the checkpoint lacks.
    unused: names that the checkpoint has and the model lacks.
    """

    loaded: list[str]
    missing: list[str]
    unused: list[str]

    def __str__(self):
        parts = (f"{field}: {len(names)}" for field, names in self._asdict().items())
        return ", ".join(parts)


def load_mmdet(model, checkpoint, partial=False):
    """Puts the weights of an mmdetection checkpoint into `model`.

    Args:
        model: MaskRCNN, CascadeMaskRCNN, MaskScoringRCNN, HTC, SCNet, RefineMask, RDSNet, or PAC
            with HTC's parts. An RDSNet's `MBRM` gets its published numbers, unless the checkpoint
            holds others.
        checkpoint: path of `.pth` (needs torch), `.safetensors` or `.npz`, or {name: array}.
        partial: whether names may be missing or unused; otherwise they raise.

    Returns:
        Report.

    Raises:
        ValueError: a shape differs, or, unless `partial`, names do. Nothing is loaded then.
    """
    tensors = with_refinement(model, tensors_of(checkpoint))
    return load_tensors(names(model), tensors, type(model).__name__, partial)


def tensors_of(checkpoint):
    """{name: array} of a path or such a dict, without counters and parallel training's prefix."""
    tensors = checkpoint if isinstance(checkpoint, dict) else read(checkpoint)
    tensors = {name.removeprefix("module."): np.asarray(x) for name, x in tensors.items()}
    return {name: x for name, x in tensors.items() if not name.endswith(_COUNTER)}


def load_tensors(known, tensors, owner, partial=False):
    """Puts `tensors` {name: array} into the variables of `known` {name: Tensor}; a Report.

    `owner` is what an error calls the model. Raises as `load_mmdet`.
    """
    report = Report(
        [name for name in known if name in tensors],
        [name for name in known if name not in tensors],
        [name for name in tensors if name not in known],
    )
    if not partial and (report.missing or report.unused):
        raise ValueError(
            f"The checkpoint does not fit {owner}: {report}. "
            f"First missing: {report.missing[:3]}, first unused: {report.unused[:3]}. "
            "partial=True loads what fits."
        )
    for name in report.loaded:
        expected, found = known[name].shape(), np.shape(tensors[name])
        if expected != found:
            raise ValueError(f"{name}: expected shape {expected}, the checkpoint has {found}")
    for name in report.loaded:
        known[name].variable.assign(known[name].ours(np.asarray(tensors[name])))
    return report


def to_mmdet(model):
    """{name: NumPy array}, the model's weights as mmdetection names and lays them out.

    PyTorch's counters of batches, which nothing reads in inference, are 0.
    """
    tensors = {}
    for name, tensor in names(model).items():
        tensors[name] = tensor.theirs()
        if name.endswith("running_var"):
            tensors[name.replace("running_var", _COUNTER)] = np.zeros((), "int64")
    return tensors
