"""A small RefineMask on the built-in shapes, from scratch, beside `mask_rcnn_r18_shapes.py`.

    python train.py configs/refinemask_r18_shapes.py

Pictures of 256 px, whose objects are larger than a mask of 28 cells can draw exactly; otherwise as
`pac_r18_shapes.py`. AdamW at 2e-3 for batch 8, by the linear rule 2e-3 * B / 8 for another.
Expected: mask AP 0.60, boundary AP 0.36, F_1px 0.69 after 20 CPU minutes (means of 3 seeds).
"""

from functools import partial

from pac_keras import RefineMask
from pac_keras.data import shapes
from pac_keras.training import Experiment

experiment = Experiment(
    model=partial(
        RefineMask,
        backbone="resnet18",
        base_channels=32,
        frozen_stages=0,
        norm="batch",
        channels=64,
        fc_channels=256,
        roi_samples=24,
        pre_nms=(200, 200),
        max_proposals=(200, 200),
    ),
    train=partial(shapes, count=1120, size=256, frame=(224, 224)),
    valid=partial(shapes, count=200, size=256),
    epochs=6,
    batch_size=8,
    learning_rate=2e-3,
    optimizer="adamw",
    clip_norm=35.0,
    warmup_steps=50,
    schedule="cosine",
    evaluate_every=6,
)
