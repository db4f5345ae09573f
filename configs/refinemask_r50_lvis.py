"""RefineMask with ResNet-50 on LVIS v1, 12 epochs: the public code's setting.

    python train.py configs/refinemask_r50_lvis.py --weights PRETRAINED

PRETRAINED is an ImageNet ResNet (torchvision's .pth), a detector's checkpoint or a .keras file.
Data: lvis_v1_train.json and lvis_v1_val.json in data/lvis, as they are; their pictures are COCO
2017's in data/coco (train2017/, val2017/). 1203 classes; pictures with rare ones are repeated. A
batch's 16 x 300 frames take 240 MB. The batch of 16 is over all GPUs. Linear rule for another one:
learning rate 0.02 * B / 16, e.g. --batch_size 8 --learning_rate 0.01.
Expected (the paper's; not measured here): LVIS's mask AP 25.5 (rare 14.2, common 24.3, frequent
31.7). That is not what `train.py` measures: its AP is COCO's, of 100 detections a picture, and
counts a right detection as wrong where LVIS did not annotate the class. Do not compare the two.
"""

from functools import partial

from pac_keras import RefineMask
from pac_keras.data import Augmentation, coco
from pac_keras.training import Experiment

MOST_OBJECTS = 300  # in one picture, about; those beyond `max_objects` would be background

experiment = Experiment(
    model=partial(
        RefineMask,
        backbone="resnet50",
        class_agnostic_last=True,
        score_threshold=1e-4,
        max_detections=300,
        max_candidates=10000,  # at so low a threshold many pairs pass; 300 have to survive
    ),
    train=partial(
        coco,
        "data/lvis/lvis_v1_train.json",
        "data/coco",
        augmentation=Augmentation(short_sides=(640, 672, 704, 736, 768, 800)),
        max_objects=MOST_OBJECTS,
        frame=(224, 224),  # the last mask has 112 cells a side
        repeat_threshold=0.001,
    ),
    valid=partial(coco, "data/lvis/lvis_v1_val.json", "data/coco", batch_size=4),
    batch_size=16,
    learning_rate=0.02,
    epochs=12,
    milestones=(8, 11),
    clip_norm=35.0,
    evaluate_every=12,
)
