"""Trains a small system on one and on two logical CPU devices: `two_devices.py SYSTEM OUT.npz`.

The devices must be declared before TensorFlow starts, so this runs in a Python of its own.
"""

import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf
import tiny
from keras import ops

import pac_keras
from pac_keras.training import checkpoint

RATE, DECAY, CLIP = 0.1, 1e-4, 0.5
ROWS = 12  # of ground truth: the same in all batches, so that one trace serves them


def main(name, path):
    """Writes losses, weights and detections of both runs as arrays "<run>_<what>:<name>"."""
    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    keras.utils.set_random_seed(0)
    single = compiled(name, run_eagerly=True)
    with strategy.scope():
        double = compiled(name)
    double.set_weights(single.get_weights())
    results = {"before": named_weights(single)}
    batches = tiny.shapes_a_a_b_a(ROWS)
    results["hand_fit"] = means([tiny.loss_values(single, batch) for batch in batches])
    results["two_fit"] = last(double.fit(tiny.dataset(batches), verbose=0))
    double.set_weights(single.get_weights())  # the batch norms' statistics have moved

    evaluated = [*batches, tiny.batch((2,), ((64, 96),), rows=ROWS)]  # one picture, two devices
    losses = [tiny.loss_values(single, batch, training=False) for batch in evaluated]
    results["hand_evaluate"] = means(losses)
    results["two_evaluate"] = double.evaluate(tiny.dataset(evaluated), verbose=0, return_dict=True)
    found = [tiny.numbers(single(tiny.tensors(batch.images))) for batch in evaluated]
    results["hand_predict"] = {k: np.concatenate([f[k] for f in found]) for k in found[0]}
    results["two_predict"] = double.predict(tiny.dataset(evaluated), verbose=0)._asdict()

    unequal = tiny.dataset([tiny.batch((1, 12), rows=ROWS)])
    for run, model in (("one", single), ("two", double)):
        model.optimizer.learning_rate = RATE
        results[f"{run}_step"] = last(model.fit(unequal, verbose=0))
        results[f"{run}_weights"] = named_weights(model)
    results["two_restored"] = restored(double, pathlib.Path(path).parent)
    np.savez(
        path, **{f"{run}:{k}": v for run, values in results.items() for k, v in values.items()}
    )


def restored(model, folder):
    """`named_weights` after a checkpoint was written, the weights spoilt, and the file read."""
    path = checkpoint.save(model, folder, checkpoint.state_of(model, epoch=1))
    for variable in model.trainable_variables:
        variable.assign(2.0 * variable)
    checkpoint.restore(model, path)
    return named_weights(model)


def compiled(name, **options):
    """A system that proposes fixed boxes; it does not learn before its rate is set."""
    model = tiny.fix_proposals(tiny.build(getattr(pac_keras, name)))
    optimizer = keras.optimizers.SGD(0.0, momentum=0.9)
    model.compile(optimizer, weight_decay=DECAY, clip_norm=CLIP, **options)
    return model


def named_weights(model):
    """{number and name: array} of all variables, statistics included, seeds not."""
    variables = [v for v in model.weights if "seed" not in v.path]
    return {f"{i} {v.name}": ops.convert_to_numpy(v) for i, v in enumerate(variables)}


def last(history):
    """{loss: value in the last epoch}."""
    return {name: values[-1] for name, values in history.history.items()}


def means(losses):
    """{loss: mean} of one {loss: value} for each batch."""
    return {name: np.mean([each[name] for each in losses]) for name in losses[0]}


if __name__ == "__main__":
    main(*sys.argv[1:])
