"""A small RDSNet on the built-in shapes, from scratch.

    python train.py configs/rdsnet_r18_shapes.py --output runs/rdsnet

Half-width ResNet-18, pictures of 128 px drawn in memory. AdamW at 2e-3 for batch 8, by the linear
rule 2e-3 * B / 8 for another. Then its boxes' refinement, a second run with everything else frozen:

    python train.py configs/rdsnet_r18_shapes.py --output runs/rdsnet_boxes \
        --weights runs/rdsnet/model.keras --model.trained_part box_refinement \
        --learning_rate 0.05 --epochs 2

Expected: mask AP 0.40, box AP 0.55 after five CPU minutes; box AP 0.57 after the second run.
"""

from functools import partial

from pac_keras import RDSNet
from pac_keras.data import shapes
from pac_keras.training import Experiment

experiment = Experiment(
    model=partial(
        RDSNet,
        backbone="resnet18",
        base_channels=32,
        frozen_stages=0,
        norm="batch",
        channels=64,
        num_convs=2,
        norm_groups=16,
        rep_channels=16,
        pre_nms=200,
        mask_samples=32,
        mask_side=112,
    ),
    train=partial(shapes, count=1120, size=128),
    valid=partial(shapes, count=200, size=128),
    epochs=6,
    batch_size=8,
    learning_rate=2e-3,
    optimizer="adamw",
    clip_norm=35.0,
    warmup_steps=50,
    schedule="cosine",
    evaluate_every=3,
)
