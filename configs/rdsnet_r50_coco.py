"""RDSNet with ResNet-50 on COCO, 12 epochs: the setting of the paper's code.

    python train.py configs/rdsnet_r50_coco.py --output runs/rdsnet --weights PRETRAINED

PRETRAINED is an ImageNet ResNet (torchvision's .pth), a detector's checkpoint or a .keras file.
Data: COCO 2017 in data/coco (annotations/, train2017/, val2017/); or --data JSON --images DIR
--valid JSON --valid_images DIR. The batch of 8 is over all GPUs. Linear rule for another one:
learning rate 0.005 * B / 8. The backbone's first stage and its norm are frozen; from scratch
instead: --model.frozen_stages 0 --model.norm batch.

The refinement of the boxes (1000 steps, as in the paper) is trained afterwards, all else frozen:

    python train.py configs/rdsnet_r50_coco.py --output runs/rdsnet_boxes \
        --weights runs/rdsnet/model.keras --model.trained_part box_refinement \
        --train.limit 8000 --epochs 1 --milestones 1

Expected (the code's; not measured here), mask AP / box AP on val2017: 32.1 / 36.8, box AP 37.8
after the second run.
"""

from functools import partial

from pac_keras import RDSNet
from pac_keras.data import coco
from pac_keras.training import Experiment

experiment = Experiment(
    model=partial(RDSNet, backbone="resnet50"),
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
    batch_size=8,
    learning_rate=0.005,
    epochs=12,
    milestones=(8, 11),
    warmup_factor=1 / 3,
    clip_norm=35.0,
)
