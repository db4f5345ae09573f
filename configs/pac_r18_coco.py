"""PAC with ResNet-18 on COCO, 12 epochs: the paper's setting for ablations.

    python train.py configs/pac_r18_coco.py --weights PRETRAINED.keras

Data: COCO 2017 in data/coco (annotations/, train2017/, val2017/) and the COCO-stuff pixel maps in
data/coco/stuffthingmaps/train2017; or --data JSON --images DIR --valid JSON --valid_images DIR.
The paper's batch of 16 is over all GPUs. Linear rule for another one: learning rate 0.02 * B / 16,
e.g. --batch_size 8 --learning_rate 0.01. The backbone's first stage and its norm are frozen, as in
the paper, and start from pretrained weights: --weights FILE. From scratch instead:
--model.frozen_stages 0 --model.norm batch.
Expected on val2017 (the paper's; not measured here): mask AP 35.0, box AP 38.3
with mask quality alone (--model.semantic htc); it has no row for the whole of PAC.
"""

from functools import partial

from pac_keras import PAC
from pac_keras.data import coco
from pac_keras.training import Experiment

experiment = Experiment(
    model=partial(PAC, backbone="resnet18"),
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
    epochs=12,
    milestones=(8, 11),
)
