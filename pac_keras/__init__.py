"""Instance segmentation for Keras 3.

The way of the data, and where each step lives:

    picture -> Images              data/image.py: decode, resize, normalise, pad
    Images -> {2..5: C2..C5}       backbone/
           -> {2..6: P2..P6}       pyramid/fpn.py (one-stage systems: P3..P7)
           -> Rois                 proposals/: anchors, RPN, suppression
    Rois -> features               roi/: RoIAlign, the sources of a system
         -> boxes, classes         cascade.py with heads/box.py
         -> masks, quality         heads/mask.py, heads/refine_mask.py, heads/quality.py,
                                   heads/semantic.py, heads/context.py
    or, in one stage
    pyramid -> boxes, classes      heads/dense.py: answers of all anchors, with a vector each
            -> masks               heads/pixel.py: vectors times pixels; heads/mbrm.py: their edges
         -> Detections             detections/select.py, detections/paste.py
    Batch -> losses                systems/<name>.py `training_losses`, trained by systems/base.py
"""

import importlib

from pac_keras.predict import predict
from pac_keras.structures import Batch, Detections, GroundTruth, Images
from pac_keras.systems.cascade_mask_rcnn import CascadeMaskRCNN
from pac_keras.systems.htc import HTC
from pac_keras.systems.mask_rcnn import MaskRCNN
from pac_keras.systems.ms_rcnn import MaskScoringRCNN
from pac_keras.systems.pac import PAC
from pac_keras.systems.rdsnet import RDSNet
from pac_keras.systems.rdsnet_s import RDSNetS
from pac_keras.systems.refinemask import RefineMask
from pac_keras.systems.scnet import SCNet
from pac_keras.training import schedule as _schedule  # noqa: F401 (load_model finds it)

__all__ = [
    "HTC",
    "PAC",
    "Batch",
    "CascadeMaskRCNN",
    "Detections",
    "GroundTruth",
    "Images",
    "MaskRCNN",
    "MaskScoringRCNN",
    "RDSNet",
    "RDSNetS",
    "RefineMask",
    "SCNet",
    "data",
    "predict",
    "weights",
]
__version__ = "0.1.0"


def __getattr__(name):
    """`data` and `weights` are imported on first use: a deployed model does not need them."""
    if name in ("data", "weights"):
        return importlib.import_module(f"pac_keras.{name}")
    raise AttributeError(f"module 'pac_keras' has no attribute {name!r}")
