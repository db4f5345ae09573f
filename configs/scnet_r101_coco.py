"""SCNet with ResNet-101 on COCO, 20 epochs: the paper's setting.

    python train.py configs/scnet_r101_coco.py --weights PRETRAINED

PRETRAINED is an ImageNet ResNet (torchvision's .pth), a detector's checkpoint or a .keras file.
Data: COCO 2017 in data/coco (annotations/, train2017/, val2017/) and the COCO-stuff pixel maps in
data/coco/stuffthingmaps/train2017; or --data JSON --images DIR --valid JSON --valid_images DIR.
The paper's batch of 16 is over all GPUs. Linear rule for another one: learning rate 0.02 * B / 16,
e.g. --batch_size 8 --learning_rate 0.01. The backbone's first stage and its
norm are frozen, as in the paper; from scratch instead: --model.frozen_stages 0 --model.norm batch.
Expected on val2017 (mmdetection's; not measured here), box AP / mask AP: 45.8 / 40.9.
The paper has mask AP 41.3 on test-dev.
"""

from functools import partial

from pac_keras import SCNet
from pac_keras.data import coco
from pac_keras.training import Experiment

experiment = Experiment(
    model=partial(SCNet, backbone="resnet101"),
    train=partial(
        coco,
        "data/coco/annotations/instances_train2017.json",
        "data/coco/train2017",
        semantic="data/coco/stuffthingmaps/train2017",
    ),
    valid=partial(
        coco,
        "data/coco/annotations/instances_val2017.json",
        "data/coco/val2017",
        batch_size=4,
    ),
    batch_size=16,
    learning_rate=0.02,
    epochs=20,
    milestones=(16, 19),
)
