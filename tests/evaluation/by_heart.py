"""A small detector learns the eight pictures of tests/data/coco_eight by heart.

    python -m tests.evaluation.by_heart SYSTEM OUT.keras [--seed S --epochs N --short A --long B]

From scratch, with batch statistics that are measured once and then frozen. Prints the metrics on
the same eight pictures: what a system's masks can draw when it knows the objects, not how it does
on others.
"""

import argparse
import functools
import json
import pathlib
import time

import keras

import pac_keras
from pac_keras.data import Augmentation, Preprocessing, coco
from pac_keras.evaluation.coco import evaluate_dataset

EIGHT = pathlib.Path(__file__).parents[1] / "data" / "coco_eight"
SYSTEMS = ("PAC", "MaskRCNN", "RefineMask")
FRAMES = {"RefineMask": (224, 224)}  # its masks have 112 cells; the other systems' at most 28


def learn(system, seed=0, epochs=200, short_side=480, long_side=640, roi_samples=128):
    """Trains `system` of `SYSTEMS`; returns (model, metrics on the pictures it was trained on)."""
    keras.utils.set_random_seed(seed)
    frame = {"frame": FRAMES[system]} if system in FRAMES else {}
    data = functools.partial(
        coco,
        EIGHT / "instances.json",
        EIGHT / "images",
        batch_size=1,
        preprocessing=Preprocessing(short_side=short_side, long_side=long_side),
    )
    train = data(training=True, seed=seed, augmentation=Augmentation(flip=0.0), **frame)
    measuring, model = (build(system, train, norm, roi_samples) for norm in ("batch", "frozen"))
    for _ in range(5):
        for batch in train:
            measuring.backbone(batch.images.pixels, training=True)
    model.set_weights(measuring.get_weights())
    steps = epochs * len(train)
    rate = keras.optimizers.schedules.CosineDecay(
        1e-5, steps - 50, warmup_target=2e-3, warmup_steps=50
    )
    model.compile(keras.optimizers.AdamW(rate), weight_decay=0.0, clip_norm=35.0)
    model.fit(train, epochs=epochs, verbose=2)
    return model, evaluate_dataset(model, data(training=False), boundary=True)


def build(system, data, norm, roi_samples):
    """The detector of `SYSTEMS` for the classes of `data`, with ResNet-18 at half width."""
    semantic = {"num_semantic_classes": data.num_semantic_classes} if system == "PAC" else {}
    return getattr(pac_keras, system)(
        data.num_classes,
        "resnet18",
        base_channels=32,
        frozen_stages=0,
        norm=norm,
        channels=64,
        fc_channels=256,
        pre_nms=(500, 500),
        max_proposals=(250, 250),
        roi_samples=roi_samples,
        **semantic,
    )


def main():
    """Trains, saves and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("out", metavar="OUT.keras")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--short", type=int, default=480, help="short side in pixels")
    parser.add_argument("--long", type=int, default=640, help="long side in pixels")
    options = parser.parse_args()
    start = time.process_time()
    model, metrics = learn(
        options.system, options.seed, options.epochs, options.short, options.long
    )
    model.save(options.out)
    minutes = (time.process_time() - start) / 60
    print(json.dumps({**vars(options), "cpu_minutes": round(minutes, 1), **metrics}))


if __name__ == "__main__":
    main()
