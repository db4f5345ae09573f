"""A "system" of two weights and its data, so that runs take milliseconds."""

from functools import partial

import keras
import numpy as np

from pac_keras.data import Category
from pac_keras.training.experiment import Experiment

STEPS = 4


class TinyData:
    """Batches of (x, 3 x) whose numbers depend on (seed, epoch, step) alone."""

    categories = (Category(1, "dot"),)
    num_classes = 1
    num_semantic_classes = 2
    name = "tiny"

    def __init__(self, *, training, batch_size, seed=0):
        self.batch_size, self.seed = batch_size, seed
        self.source = self

    def __len__(self):
        return STEPS

    def image_ids(self, epoch, step):
        return [10 * epoch + step] * self.batch_size

    def batches(self, start_epoch, start_step=0):
        for position in range(start_epoch * STEPS + start_step, 100 * STEPS):
            x = np.random.default_rng([self.seed, position]).random((self.batch_size, 1), "float32")
            yield x, 3 * x


@keras.saving.register_keras_serializable(package="tests")
class TinySystem(keras.Model):
    """Noise and one dense layer; `compile` and `fit` take what a system's take."""

    def __init__(self, num_classes, num_semantic_classes, **kwargs):
        super().__init__(**kwargs)
        self.noise = keras.layers.GaussianNoise(0.1)
        self.dense = keras.layers.Dense(1)
        self(np.zeros((1, 1), "float32"))

    def call(self, inputs, training=False):
        return self.dense(self.noise(inputs, training=training))

    def get_config(self):
        return {"num_classes": 1, "num_semantic_classes": 2}

    def compile(self, optimizer="sgd", weight_decay=0.0, clip_norm=None):
        super().compile(optimizer, loss="mse", run_eagerly=False)

    def compile_from_config(self, config):
        self.compile()

    def fit(self, dataset, initial_epoch=0, initial_step=0, **kwargs):
        batches, steps = dataset.batches(initial_epoch, initial_step), len(dataset) - initial_step
        return super().fit(batches, initial_epoch=initial_epoch, steps_per_epoch=steps, **kwargs)


def metrics(mask_ap):
    """What an evaluation answers."""
    return {
        "box": {"AP": mask_ap / 2, "AP50": mask_ap},
        "mask": {"AP": mask_ap, "AP50": mask_ap},
        "per_class": {"dot": {"box": mask_ap / 2, "mask": mask_ap}},
    }


experiment = Experiment(
    model=TinySystem,
    train=TinyData,
    valid=partial(TinyData),
    epochs=4,
    batch_size=2,
    learning_rate=0.1,
    warmup_steps=3,
    milestones=(2,),
    pictures=0,
)
