"""What RDSNet's refinement does to boxes: box AP of the same detections with each kind of edges.

    python -m tests.evaluation.refinement MODEL.keras [COUNT]

MODEL is the result of a run with `trained_part="box_refinement"` on the built-in shapes; COUNT
pictures of their validation split (200). Prints box AP, AP50 and AP75 of the regressed boxes, of
the boxes around the masks ("direct"), and of `MBRM` with its initial, the published and MODEL's
weights.
"""

import sys

import keras
import numpy as np

import pac_keras  # noqa: F401 (load_model finds the systems)
from pac_keras.data import shapes
from pac_keras.evaluation.coco import evaluate_dataset
from pac_keras.heads import mbrm


def variants(path):
    """Yields (name, model) of each kind of edges, loaded anew: what was traced stays traced."""
    for name in ("none", "direct", "initial", "published", "trained"):
        model = keras.models.load_model(path, compile=False)
        if name in ("none", "direct"):
            model.box_refinement = name
        elif name == "published":
            model.refinement.kernel.assign(mbrm.PUBLISHED)
            model.refinement.bias.assign([mbrm.PUBLISHED_BIAS])
        elif name == "initial":
            fresh = mbrm.MBRM()
            model.refinement.kernel.assign(fresh.kernel)
            model.refinement.bias.assign(fresh.bias)
        yield name, model


def main(path, count=200):
    """Prints the table."""
    size = keras.models.load_model(path, compile=False).preprocessing.short_side
    data = shapes(training=False, batch_size=8, count=int(count), size=size)
    print(f"{'edges':10} {'box AP':>7} {'AP50':>7} {'AP75':>7}")
    for name, model in variants(path):
        found = evaluate_dataset(model, data, progress=False)["box"]
        print(f"{name:10}", *(f"{found[metric]:7.4f}" for metric in ("AP", "AP50", "AP75")))
        if name == "trained":
            print("kernel", np.round(model.refinement.kernel, 3), "bias", model.refinement.bias[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
