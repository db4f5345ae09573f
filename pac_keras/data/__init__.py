"""Data: sources of samples (`CocoSource`, ...) and the batches that models are trained on."""

from pac_keras.data.augment import Augmentation
from pac_keras.data.batch import Dataset
from pac_keras.data.coco import CocoSource, coco, coco_folder
from pac_keras.data.image import Preprocessing
from pac_keras.data.sample import Category, Sample, Segmentation, Source
from pac_keras.data.shapes import ShapesSource, shapes

__all__ = [
    "Augmentation",
    "Category",
    "CocoSource",
    "Dataset",
    "Preprocessing",
    "Sample",
    "Segmentation",
    "ShapesSource",
    "Source",
    "coco",
    "coco_folder",
    "shapes",
]
