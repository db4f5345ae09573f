"""RDSNet_s with ResNet-101 on COCO: real time, pictures of 550 px, 48 epochs.

    python train.py configs/rdsnet_s_r101_coco.py --weights PRETRAINED

PRETRAINED is an ImageNet ResNet (torchvision's .pth), a detector's checkpoint or a .keras file.
Data: COCO 2017 in data/coco (annotations/, train2017/, val2017/); or --data JSON --images DIR
--valid JSON --valid_images DIR. The batch of 8 is over all GPUs. Linear rule for another one:
learning rate 0.001 * B / 8. The backbone's first stage and its norm are frozen; from scratch
instead: --model.frozen_stages 0 --model.norm batch. There is no public code: what the paper leaves
open (augmentation, rate, decay; milestones at the same share of the epochs) is YOLACT's.
Expected (the paper's; not measured here): mask AP 31.8 on val2017, 32.1 on test-dev.
"""

from functools import partial

from pac_keras import RDSNetS
from pac_keras.data import Augmentation, Preprocessing, coco
from pac_keras.training import Experiment

PREPROCESSING = Preprocessing(short_side=550, long_side=550, keep_ratio=False)

experiment = Experiment(
    model=partial(RDSNetS, backbone="resnet101"),
    train=partial(
        coco,
        "data/coco/annotations/instances_train2017.json",
        "data/coco/train2017",
        preprocessing=PREPROCESSING,
        augmentation=Augmentation(photometric=True, expand=4.0, crop=True),
    ),
    valid=partial(
        coco,
        "data/coco/annotations/instances_val2017.json",
        "data/coco/val2017",
        preprocessing=PREPROCESSING,
        batch_size=8,
    ),
    batch_size=8,
    learning_rate=1e-3,
    weight_decay=5e-4,
    epochs=48,
    milestones=(17, 37, 43, 45),
    warmup_factor=0.1,
)
