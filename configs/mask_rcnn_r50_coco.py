"""Mask R-CNN with ResNet-50 on COCO, 24 epochs: mmdetection's setting.

    python train.py configs/mask_rcnn_r50_coco.py --weights PRETRAINED

PRETRAINED is an ImageNet ResNet (torchvision's .pth), a detector's checkpoint or a .keras file.
Data: COCO 2017 in data/coco (annotations/, train2017/, val2017/); or --data JSON --images DIR
--valid JSON --valid_images DIR. The batch of 16 is over all GPUs. Linear rule for another one:
learning rate 0.02 * B / 16, e.g. --batch_size 8 --learning_rate 0.01. The backbone's first stage
and its norm are frozen; from scratch instead: --model.frozen_stages 0 --model.norm batch.
Expected on val2017 (mmdetection's; not measured here), box AP / mask AP: 39.2 / 35.4.
With --model.backbone resnet101: 40.8 / 36.6; resnext101_32x4d: 42.2 / 37.8.
"""

from functools import partial

from pac_keras import MaskRCNN
from pac_keras.data import coco
from pac_keras.training import Experiment

experiment = Experiment(
    model=partial(MaskRCNN, backbone="resnet50"),
    train=partial(
        coco,
        "data/coco/annotations/instances_train2017.json",
        "data/coco/train2017",
    ),
    valid=partial(
        coco,
        "data/coco/annotations/instances_val2017.json",
        "data/coco/val2017",
        batch_size=4,
    ),
    batch_size=16,
    learning_rate=0.02,
    epochs=24,
    milestones=(16, 22),
)
