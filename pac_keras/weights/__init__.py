"""Published weights: `load_mmdet`, `to_mmdet`."""

from pac_keras.weights.mmdet import load_mmdet, to_mmdet

__all__ = ["load_mmdet", "to_mmdet"]
