"""Training on several devices at once: `tf.distribute`, and `keras.distribution` on JAX."""

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


class SharedMean(keras.metrics.Mean):
    """Mean of values that are the same on all replicas, so that one may be read without the others:
    Keras's own is summed over all workers whenever one of them reads it."""

    def add_variable(self, *args, **kwargs):
        return super().add_variable(*args, **kwargs | {"aggregation": "only_first_replica"})


def several_workers(strategy):
    """Whether a `tf.distribute` strategy spans several processes."""
    import tensorflow as tf

    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    return len(strategy.cluster_resolver.cluster_spec().as_dict().get("worker", [])) > 1


def fed_to_workers(generate, spec, batch_size, strategy):
    """What `fit` iterates over where `strategy` spans several workers: each reads its own part.

    Args:
        generate: function of the part, (number, count), that answers an iterable of batches.
        spec: of a batch of `batch_size`, which divides among the replicas.
    """
    import tensorflow as tf

    def of_worker(context):
        part = context.input_pipeline_id, context.num_input_pipelines
        batches = tf.data.Dataset.from_generator(lambda: generate(part), output_signature=spec)
        return prefetched(batches.rebatch(context.get_per_replica_batch_size(batch_size)))

    return strategy.distribute_datasets_from_function(of_worker)


def prefetched(dataset):
    """A `tf.data.Dataset` whose next batches are read while a step runs."""
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False  # its thread keeps the end of `fit` waiting, up to a minute
    return dataset.prefetch(2).with_options(options)
