"""A small PAC on microscope pictures of cell nuclei, from scratch, in an hour on two CPU cores.

    python train.py configs/pac_r18_nuclei.py --data NUCLEI

NUCLEI is a folder with train.json, val.json and images/: stage 1 of the 2018 Data Science Bowl
(CC0), one class. The median nucleus has 17 px in a picture of 256 px: it is enlarged by 1.5, since
the smallest anchors have 32 px and a box that overlaps none by 0.3 is hardly learnt. AdamW at
5e-4 for batch 4; linear rule for another batch: 5e-4 * B / 4. Expected: mask
AP 0.36 (box AP 0.35) after 37 CPU minutes.
"""

from functools import partial

from pac_keras import PAC
from pac_keras.data import Preprocessing, coco_folder
from pac_keras.training import Experiment

PREPROCESSING = Preprocessing(short_side=384, long_side=640)
MOST_NUCLEI = 369  # in one picture; those beyond `max_objects` would be trained on as background

experiment = Experiment(
    model=partial(
        PAC,
        backbone="resnet18",
        base_channels=32,
        frozen_stages=0,
        norm="batch",
        channels=48,
        fc_channels=256,
        roi_samples=64,
        pre_nms=(500, 300),
        max_proposals=(300, 300),
    ),
    train=partial(coco_folder, split="train", preprocessing=PREPROCESSING, max_objects=MOST_NUCLEI),
    valid=partial(coco_folder, split="val", preprocessing=PREPROCESSING),
    epochs=6,
    batch_size=4,
    learning_rate=5e-4,
    optimizer="adamw",
    clip_norm=35.0,
    warmup_steps=100,
    schedule="cosine",
    evaluate_every=3,
)
