"""Training and test step on JAX, where variables are passed in and out.

They do what the TensorFlow steps of `systems/base.py` do. Keras's stock JAX step would also trace
`call`, and leaves no place between the gradient and the optimizer for clipping and L2.
"""

import keras


class JAXSteps(keras.Model):
    """`train_step` and `test_step` in the signature of Keras's JAX trainer."""

    def train_step(self, state, data):
        import jax

        trainable, non_trainable, optimizer_variables, metrics = state
        optimizer_state = list(zip(self.optimizer.variables, optimizer_variables, strict=True))

        def scaled_loss(trainable):
            total, losses, updated = self._stateless_losses(trainable, non_trainable, data, True)
            with keras.StatelessScope(
                zip(self.optimizer.variables, optimizer_variables, strict=True)
            ):
                scaled = self.optimizer.scale_loss(total)
            return scaled, (total, losses, updated)

        (_, (total, losses, updated)), gradients = jax.value_and_grad(scaled_loss, has_aux=True)(
            trainable
        )
        with keras.StatelessScope(optimizer_state):
            gradients = self._finish_gradients(gradients, trainable)
        trainable, optimizer_variables = self.optimizer.stateless_apply(
            optimizer_variables, gradients, trainable
        )
        logs, metrics = self._stateless_track(metrics, total, losses)
        return logs, (trainable, updated, optimizer_variables, metrics)

    def test_step(self, state, data):
        trainable, non_trainable, metrics = state
        total, losses, updated = self._stateless_losses(trainable, non_trainable, data, False)
        logs, metrics = self._stateless_track(metrics, total, losses)
        return logs, (trainable, updated, metrics)

    def _stateless_losses(self, trainable, non_trainable, data, training):
        """Total, parts, and the non-trainable variables' new values."""
        variables = [*self.trainable_variables, *self.non_trainable_variables]
        values = [*trainable, *non_trainable]
        with keras.StatelessScope(zip(variables, values, strict=True)) as scope:
            total, losses = self.mean_losses(data, training)
        return total, losses, [_value(scope, v) for v in self.non_trainable_variables]

    def _stateless_track(self, metrics, total, losses):
        """Logs, and the trackers' new values."""
        with keras.StatelessScope(zip(self.metrics_variables, metrics, strict=True)) as scope:
            logs = self._track(total, losses)
        return logs, [_value(scope, v) for v in self.metrics_variables]


def _value(scope, variable):
    value = scope.get_current_value(variable)
    return variable.value if value is None else value
