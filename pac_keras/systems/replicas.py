"""Sums over the replicas of `tf.distribute`."""

import keras


def over_replicas(values):
    """Sum of `values` (a tensor or a list) over the replicas of `tf.distribute`."""
    if keras.backend.backend() != "tensorflow":
        return values
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica.num_replicas_in_sync == 1:
        return values
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, values)
