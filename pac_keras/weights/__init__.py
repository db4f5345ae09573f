"""Published weights, and those to start from."""

from pac_keras.weights.mmdet import load_mmdet, to_mmdet
from pac_keras.weights.torchvision import load_backbone, load_maskrcnn
from pac_keras.weights.transfer import start_from

__all__ = ["load_backbone", "load_maskrcnn", "load_mmdet", "start_from", "to_mmdet"]
