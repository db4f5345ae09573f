"""RefineMask with ResNet-50 on COCO, 12 epochs (1x): the paper's setting.

    python train.py configs/refinemask_r50_coco.py --weights PRETRAINED

PRETRAINED is an ImageNet ResNet (torchvision's .pth), a detector's checkpoint or a .keras file.
Data: COCO 2017 in data/coco (annotations/, train2017/, val2017/); or --data JSON --images DIR
--valid JSON --valid_images DIR. The paper's batch of 16 is over all GPUs. Linear rule for another
one: learning rate 0.02 * B / 16, e.g. --batch_size 8 --learning_rate 0.01. The backbone's first
stage and its norm are frozen; from scratch instead: --model.frozen_stages 0 --model.norm batch.
2x:                      --epochs 24 --milestones 16,22
3x with several scales:  --epochs 36 --milestones 28,34
                         --train.augmentation.short_sides $(seq -s, 640 800)
Expected on val2017 (the paper's; not measured here), mask AP: 1x 37.3, 2x 37.9, and with
--model.backbone resnet101 38.6 and 38.8. On LVIS's masks of the same pictures and 80 classes, which
are finer (AP*): 40.9, 41.5, 41.7, 42.3. 3x on test-dev: 40.2, with resnet101 41.2.
"""

from functools import partial

from pac_keras import RefineMask
from pac_keras.data import coco
from pac_keras.training import Experiment

experiment = Experiment(
    model=partial(RefineMask, backbone="resnet50"),
    train=partial(
        coco,
        "data/coco/annotations/instances_train2017.json",
        "data/coco/train2017",
        frame=(224, 224),  # the last mask has 112 cells a side
    ),
    valid=partial(
        coco,
        "data/coco/annotations/instances_val2017.json",
        "data/coco/val2017",
        batch_size=4,
    ),
    batch_size=16,
    learning_rate=0.02,
    epochs=12,
    milestones=(8, 11),
    clip_norm=35.0,
)
