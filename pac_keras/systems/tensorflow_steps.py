"""Training and test step on TensorFlow, on one device or on the replicas of `tf.distribute`."""

import keras

from pac_keras.systems.replicas import over_replicas, several_workers


class TensorFlowSteps(keras.Model):
    """`train_step`, `test_step` and `predict_on_batch` in the signature of Keras's trainer.

    Keras's stock step leaves no place between the gradient and the optimizer for clipping and L2.
    """

    _predicted_alone = None  # compiled at the first use

    def train_step(self, data):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            total, losses = self.mean_losses(data, training=True)
            scaled = self.optimizer.scale_loss(total)
        variables = self.trainable_weights
        sources = [v.value for v in variables]  # zeros are made for TensorFlow's variables only
        gradients = tape.gradient(scaled, sources, unconnected_gradients="zero")
        gradients = self._finish_gradients(over_replicas(gradients), variables)
        # The optimizer sums over the replicas once more.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self.optimizer.apply([g / replicas for g in gradients], variables)
        return _as_keras_averages(self._track(total, losses))

    def test_step(self, data):
        return _as_keras_averages(self._track(*self.mean_losses(data, training=False)))

    def predict_on_batch(self, x):
        """Keras's. With several replicas one of them answers: Keras would have each of them
        predict the whole batch, and give all their answers one after another."""
        if self.distribute_strategy.num_replicas_in_sync == 1:
            return super().predict_on_batch(x)
        import tensorflow as tf

        if self._predicted_alone is None:
            vars(self)["_predicted_alone"] = tf.function(
                lambda images: self(images, training=False), reduce_retracing=True
            )
        return keras.tree.map_structure(lambda value: value.numpy(), self._predicted_alone(x))

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Creates the optimizer's variables: all others exist. Keras's own reads a batch to create
        them, which it fails to average over several workers."""
        if self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)


def _as_keras_averages(logs):
    """`logs` as Keras's `fit` wants them: of several workers it averages the first axis of each
    value, and fails where, as in its own `train_step`, there is none."""
    import tensorflow as tf

    if not several_workers(tf.distribute.get_strategy()):
        return logs
    return {name: value[None] for name, value in logs.items()}
