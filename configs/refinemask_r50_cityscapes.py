"""RefineMask with ResNet-50 on Cityscapes, 64 epochs: the public code's setting.

    python train.py configs/refinemask_r50_cityscapes.py --weights PRETRAINED

PRETRAINED is an ImageNet ResNet (torchvision's .pth), a detector's checkpoint or a .keras file.
Data: Cityscapes in data/cityscapes: leftImg8bit/{train,val} and, in annotations/, the instances of
gtFine as COCO jsons (8 classes). mmdetection's tools/dataset_converters/cityscapes.py writes them;
any converter will do whose file names are relative to leftImg8bit/train and leftImg8bit/val. The
batch of 8 is over all GPUs. Linear rule for another one: learning rate 0.01 * B / 8, e.g.
--batch_size 4 --learning_rate 0.005. An epoch here is the eighth part of the public code's.
Expected on val (the paper's; not measured here): mask AP 37.6 (small 14.6, medium 34.0, large
58.1).
"""

from functools import partial

from pac_keras import RefineMask
from pac_keras.data import Augmentation, Preprocessing, coco
from pac_keras.training import Experiment

PREPROCESSING = Preprocessing(short_side=1024, long_side=2048)

experiment = Experiment(
    model=partial(RefineMask, backbone="resnet50", box_error="smooth_l1"),
    train=partial(
        coco,
        "data/cityscapes/annotations/instancesonly_filtered_gtFine_train.json",
        "data/cityscapes/leftImg8bit/train",
        preprocessing=PREPROCESSING,
        augmentation=Augmentation(short_sides=tuple(range(800, 1025))),
        frame=(224, 224),  # the last mask has 112 cells a side
    ),
    valid=partial(
        coco,
        "data/cityscapes/annotations/instancesonly_filtered_gtFine_val.json",
        "data/cityscapes/leftImg8bit/val",
        preprocessing=PREPROCESSING,
        batch_size=1,
    ),
    batch_size=8,
    learning_rate=0.01,
    epochs=64,
    milestones=(56,),
    clip_norm=35.0,
    evaluate_every=8,
)
