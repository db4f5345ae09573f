"""Five training steps of a small system: `five_steps.py SYSTEM OUT.npz DEVICES`.

On DEVICES logical CPU devices, or, where TF_CONFIG says so, as one of several workers; on JAX on
as many as XLA_FLAGS makes. Batch norms are frozen, samples are the first ones, and proposals are
given, so that rounding is all that the devices may differ by. Pictures have 1, 12, 0 and 5 objects.
"""

import os
import sys

import keras
import numpy as np
import tiny
from keras import ops

import pac_keras
from pac_keras.training.devices import Devices

OBJECTS = (1, 12, 0, 5)
SIZES = ((64, 96), (60, 80), (64, 64), (48, 96))


def main(name, path, count):
    """Writes losses as "loss:<name>" `[5]`, and variables as "weight:<number> <name>" and
    "optimizer:<number> <name>", which are momenta and moving averages."""
    if keras.backend.backend() == "tensorflow" and "TF_CONFIG" not in os.environ:
        scope = logical_devices(int(count)).scope()
    else:
        devices = Devices(len(OBJECTS))
        assert devices.count == int(count)
        scope = devices.scope()
    with scope:
        model = compiled(getattr(pac_keras, name))
    losses = Losses()
    model.fit(data(model), epochs=1, steps_per_epoch=5, verbose=0, callbacks=[losses])
    found = {f"loss:{key}": [step[key] for step in losses.steps] for key in losses.steps[0]}
    variables = {"weight": model.trainable_variables, "optimizer": model.optimizer.variables}
    for kind, some in variables.items():
        for number, variable in enumerate(some):
            found[f"{kind}:{number} {variable.name}"] = ops.convert_to_numpy(variable.value)
    np.savez(path, **found)


def logical_devices(count):
    """A MirroredStrategy over parts of the CPU."""
    import tensorflow as tf

    parts = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    return tf.distribute.MirroredStrategy([f"CPU:{k}" for k in range(count)])


def compiled(system):
    """The system with weights and batch statistics that depend on nothing but its layout."""
    model = tiny.fix_proposals(tiny.build(system, norm="frozen"))
    random = np.random.default_rng(0)
    for variable in model.variables:
        if "moving_mean" in variable.path:
            variable.assign(random.normal(0, 0.1, variable.shape))
        if "moving_variance" in variable.path:
            variable.assign(random.uniform(0.5, 2.0, variable.shape))
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, use_ema=True, ema_momentum=0.5)
    model.compile(optimizer, weight_decay=1e-4, clip_norm=0.5)
    return model


class Losses(keras.callbacks.Callback):
    """The losses of each step."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def on_epoch_begin(self, epoch, logs=None):
        self.sums = {}

    def on_train_batch_end(self, batch, logs=None):
        sums = {name: float(value) * (batch + 1) for name, value in logs.items()}
        self.steps.append({name: sums[name] - self.sums.get(name, 0.0) for name in sums})
        self.sums = sums


def data(model):
    batch = tiny.batch(OBJECTS, SIZES, rows=12)
    strategy = getattr(model, "distribute_strategy", None)
    if keras.backend.backend() == "jax":
        return (batch for _ in range(5))
    from pac_keras.systems.replicas import several_workers

    if not several_workers(strategy):
        return tiny.dataset([batch] * 5)
    import tensorflow as tf

    def of_worker(context):
        size = context.get_per_replica_batch_size(len(OBJECTS))
        rows = slice(context.input_pipeline_id * size, (context.input_pipeline_id + 1) * size)
        return tiny.dataset([tf.nest.map_structure(lambda value: value[rows], batch)] * 5)

    return strategy.distribute_datasets_from_function(of_worker)


if __name__ == "__main__":
    main(*sys.argv[1:])
