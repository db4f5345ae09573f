"""Tensors of a checkpoint, and the tables {name: Tensor} of the commonest parts."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from pac_keras.layers import ResidualBlock


class Tensor(NamedTuple):
    """A tensor of a checkpoint.

    variable: ours.
    features: for the columns of a dense layer after a flattened map: (channels, height, width).
    drawn: for the rows of a dense layer whose output becomes such a map.
    bgr: whether theirs takes blue first; ours always takes red first.
    signal: for the one kernel of a signal: ours `[taps]`, theirs (1, 1, taps).
    """

    variable: Any
    features: tuple[int, int, int] | None = None
    drawn: tuple[int, int, int] | None = None
    bgr: bool = False
    signal: bool = False

    def ours(self, value):
        """PyTorch's layout -> Keras's: out-in-height-width -> height-width-in-out."""
        value = value[:, ::-1] if self.bgr else value
        if self.signal:
            return value[0, 0]
        if self.drawn:
            value = np.moveaxis(value.reshape(*self.drawn, -1), 0, 2)
            return value.reshape(-1, value.shape[-1]).T if self._is_kernel() else value.ravel()
        if value.ndim == 4:  # also (in, out, h, w) -> (h, w, out, in) of transposed convolutions
            return value.transpose(2, 3, 1, 0)
        if value.ndim == 2 and self.features:
            value = value.reshape(-1, *self.features).transpose(0, 2, 3, 1)
            return value.reshape(len(value), -1).T
        return value.T

    def theirs(self, value=None):
        """`value`, an array like the variable (None = its own), in PyTorch's layout."""
        value = ops.convert_to_numpy(self.variable) if value is None else value
        if self.signal:
            return value[None, None]
        if self.drawn:
            channels, height, width = self.drawn
            value = np.moveaxis(value.T.reshape(height, width, channels, -1), 2, 0)
            shape = (-1, value.shape[-1]) if self._is_kernel() else (-1,)
            return np.ascontiguousarray(value.reshape(shape))
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
            return np.ascontiguousarray(value[:, ::-1] if self.bgr else value)
        if value.ndim == 2 and self.features:
            channels, height, width = self.features
            value = value.T.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
            return np.ascontiguousarray(value.reshape(len(value), -1))
        return np.ascontiguousarray(value.T)

    def _is_kernel(self):
        return len(self.variable.shape) > 1

    def shape(self):
        """Its shape in the checkpoint."""
        return self.theirs().shape


def check_part(part, kind):
    """Raises ValueError unless `part` of a model is of the class that published weights are of."""
    if not isinstance(part, kind):
        raise ValueError(
            f"Published checkpoints have the weights of a {kind.__name__}, the model has a "
            f"{type(part).__name__}"
        )


def stack(layers, pattern):
    """`series` of what `layers.conv_stack` makes: a block's two convolutions are numbered."""
    table = {}
    for i, part in enumerate(layers):
        name = pattern.format(i)
        if isinstance(part, ResidualBlock):
            table |= layer(part.first, f"{name}1") | layer(part.second, f"{name}2")
        else:
            table |= layer(part, name)
    return table


def series(layers, pattern):
    """Kernels and biases of `layers`; `pattern` has {} for the number."""
    table = {}
    for i, part in enumerate(layers):
        table |= layer(part, pattern.format(i))
    return table


def layer(owner, name):
    """Kernel and, where there is one, bias."""
    table = {f"{name}.weight": Tensor(owner.kernel)}
    return table | {f"{name}.bias": Tensor(owner.bias)} if owner.bias is not None else table


def conv_norm(part, convolution, norm):
    """A `ConvNorm`'s, by the names of its convolution and of its batch norm."""
    return {
        f"{convolution}.weight": Tensor(part.convolution.kernel),
        f"{norm}.weight": Tensor(part.norm.gamma),
        f"{norm}.bias": Tensor(part.norm.beta),
        f"{norm}.running_mean": Tensor(part.norm.moving_mean),
        f"{norm}.running_var": Tensor(part.norm.moving_variance),
    }


def conv_group_norm(part, name):
    """A `ConvGroupNorm`'s."""
    return {
        f"{name}.conv.weight": Tensor(part.convolution.kernel),
        f"{name}.gn.weight": Tensor(part.norm.gamma),
        f"{name}.gn.bias": Tensor(part.norm.beta),
    }
