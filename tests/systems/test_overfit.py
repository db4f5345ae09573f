"""PAC learns eight real pictures by heart.

    python -m pytest -n 0 -s -m slow tests/systems/test_overfit.py

About half an hour on two CPU cores.
"""

import pathlib

import keras
import pytest

from pac_keras import PAC
from pac_keras.data import Augmentation, Preprocessing, coco
from pac_keras.evaluation.coco import evaluate_dataset

_EIGHT = pathlib.Path(__file__).parents[1] / "data" / "coco_eight"
_SIZE = Preprocessing(short_side=480, long_side=640)
_EPOCHS = 200


@pytest.mark.slow
def test_pac_learns_eight_coco_pictures_by_heart():
    """From scratch, with batch statistics that are measured once and then frozen."""
    keras.utils.set_random_seed(0)
    files = _EIGHT / "instances.json", _EIGHT / "images"
    train = coco(
        *files,
        training=True,
        batch_size=1,
        preprocessing=_SIZE,
        augmentation=Augmentation(flip=0.0),
    )
    valid = coco(*files, training=False, batch_size=1, preprocessing=_SIZE)
    measuring, model = (pac(train, norm) for norm in ("batch", "frozen"))
    for _ in range(5):
        for batch in train:
            measuring.backbone(batch.images.pixels, training=True)
    model.set_weights(measuring.get_weights())
    steps = _EPOCHS * len(train)
    rate = keras.optimizers.schedules.CosineDecay(
        1e-5, steps - 50, warmup_target=2e-3, warmup_steps=50
    )
    model.compile(keras.optimizers.AdamW(rate), weight_decay=0.0, clip_norm=35.0)
    model.fit(train, epochs=_EPOCHS, verbose=2)
    metrics = evaluate_dataset(model, valid)
    print(metrics["box"], metrics["mask"])
    assert metrics["mask"]["AP"] >= 0.5


def pac(data, norm):
    return PAC(
        data.num_classes,
        "resnet18",
        base_channels=32,
        frozen_stages=0,
        norm=norm,
        channels=64,
        fc_channels=256,
        num_semantic_classes=data.num_semantic_classes,
        pre_nms=(500, 500),
        max_proposals=(250, 250),
        roi_samples=128,
    )
