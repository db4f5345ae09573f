"""Learning rates as functions of the step: linear warm-up, then steps or a cosine."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="pac_keras")
class StepDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then a rate that `factor` multiplies at each of `boundaries`.

    Args:
        learning_rate: after the warm-up.
        boundaries: steps, ascending; from each on, the rate is `factor` times the one before.
        factor: 0.1 in the papers.
        warmup_steps: steps of the warm-up; 0 = none.
        warmup_factor: the rate of step 0 in units of `learning_rate`.
    `call(step) -> float32 []`.
    """

    def __init__(
        self, learning_rate, boundaries, factor=0.1, warmup_steps=500, warmup_factor=0.001
    ):
        self.learning_rate = float(learning_rate)
        self.boundaries = tuple(int(boundary) for boundary in boundaries)
        self.factor = float(factor)
        self.warmup_steps = int(warmup_steps)
        self.warmup_factor = float(warmup_factor)

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rate = self.learning_rate * _warmup(step, self.warmup_steps, self.warmup_factor)
        for boundary in self.boundaries:
            rate = rate * ops.where(step >= boundary, self.factor, 1.0)
        return rate

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "boundaries": list(self.boundaries),
            "factor": self.factor,
            "warmup_steps": self.warmup_steps,
            "warmup_factor": self.warmup_factor,
        }


@keras.saving.register_keras_serializable(package="pac_keras")
class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then half a cosine from `learning_rate` down to 0 at `total_steps`.

    Args:
        learning_rate: after the warm-up.
        total_steps: the step at which the rate is 0, warm-up included.
        warmup_steps: steps of the warm-up; 0 = none.
        warmup_factor: the rate of step 0 in units of `learning_rate`.
    `call(step) -> float32 []`.
    """

    def __init__(self, learning_rate, total_steps, warmup_steps=500, warmup_factor=0.001):
        self.learning_rate = float(learning_rate)
        self.total_steps = int(total_steps)
        self.warmup_steps = int(warmup_steps)
        self.warmup_factor = float(warmup_factor)

    def __call__(self, step):
        step = ops.cast(step, "float32")
        span = max(self.total_steps - self.warmup_steps, 1)
        progress = ops.clip((step - self.warmup_steps) / span, 0.0, 1.0)
        rate = 0.5 * self.learning_rate * (1.0 + ops.cos(math.pi * progress))
        return rate * _warmup(step, self.warmup_steps, self.warmup_factor)

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "warmup_factor": self.warmup_factor,
        }


def _warmup(step, steps, factor):
    """`factor` at step 0, rising linearly to 1 at `steps`; float32 []."""
    progress = ops.clip((step + (steps == 0)) / max(steps, 1), 0.0, 1.0)
    return factor + (1.0 - factor) * progress


def make_optimizer(experiment, steps_per_epoch):
    """The Keras optimizer of an `Experiment`, with its schedule.

    "adamw" carries the weight decay itself; with "sgd" it belongs to `compile`, as L2.
    """
    warmup = {
        "warmup_steps": experiment.warmup_steps,
        "warmup_factor": experiment.warmup_factor,
    }
    if experiment.schedule == "cosine":
        rate = Cosine(experiment.learning_rate, experiment.epochs * steps_per_epoch, **warmup)
    else:
        boundaries = [epoch * steps_per_epoch for epoch in experiment.milestones]
        rate = StepDecay(experiment.learning_rate, boundaries, **warmup)
    if experiment.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=experiment.weight_decay)
    return keras.optimizers.SGD(rate, momentum=experiment.momentum)
