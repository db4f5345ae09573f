"""A small RefineMask on microscope pictures of cell nuclei, beside `mask_rcnn_r18_nuclei.py`.

    python train.py configs/refinemask_r18_nuclei.py --data NUCLEI

Data and schedule are those of `pac_r18_nuclei.py`. AdamW at 5e-4 for batch 4; linear rule for
another batch: 5e-4 * B / 4.
Expected (one seed): mask AP 0.37, boundary AP 0.35, F_1px 0.77 after 49 CPU minutes.
"""

from functools import partial

from pac_keras import RefineMask
from pac_keras.data import Preprocessing, coco_folder
from pac_keras.training import Experiment

PREPROCESSING = Preprocessing(short_side=384, long_side=640)
MOST_NUCLEI = 369  # in one picture; those beyond `max_objects` would be trained on as background

experiment = Experiment(
    model=partial(
        RefineMask,
        backbone="resnet18",
        base_channels=32,
        frozen_stages=0,
        norm="batch",
        channels=64,
        fc_channels=256,
        roi_samples=64,
        pre_nms=(500, 300),
        max_proposals=(300, 300),
    ),
    train=partial(
        coco_folder,
        split="train",
        preprocessing=PREPROCESSING,
        max_objects=MOST_NUCLEI,
        frame=(224, 224),
    ),
    valid=partial(coco_folder, split="val", preprocessing=PREPROCESSING),
    epochs=6,
    batch_size=4,
    learning_rate=5e-4,
    optimizer="adamw",
    clip_norm=35.0,
    warmup_steps=100,
    schedule="cosine",
    evaluate_every=6,
)
