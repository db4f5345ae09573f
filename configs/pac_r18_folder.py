"""PAC with ResNet-18 on your own COCO-format data, from scratch.

    python train.py configs/pac_r18_folder.py --data FOLDER
    python train.py configs/pac_r18_folder.py --data JSON --images DIR --valid JSON

FOLDER holds train.json, val.json and images/. Categories and their number are read from the json;
`python -m pac_keras check` looks the data over first. Pictures are trained at half the papers'
size; for all of it: --train.preprocessing.short_side 800 --train.preprocessing.long_side 1333,
and the same with --valid. AdamW at 2e-4 for batch 4; linear rule for another batch: 2e-4 * B / 4.
Expected: depends on the data; val_mask_AP in the run's log.csv should rise in the first third.
"""

from functools import partial

from pac_keras import PAC
from pac_keras.data import Preprocessing, coco_folder
from pac_keras.training import Experiment

PREPROCESSING = Preprocessing(short_side=400, long_side=667)

experiment = Experiment(
    model=partial(PAC, backbone="resnet18", frozen_stages=0, norm="batch"),
    train=partial(coco_folder, split="train", preprocessing=PREPROCESSING),
    valid=partial(coco_folder, split="val", preprocessing=PREPROCESSING),
    epochs=30,
    batch_size=4,
    learning_rate=2e-4,
    optimizer="adamw",
    clip_norm=35.0,
    schedule="cosine",
    evaluate_every=2,
)
