"""Backbones of KerasCV and KerasHub, with their published weights, as backbones of our systems.

The only place that knows these libraries; they are imported when `pretrained` needs them. What it
answers is made of Keras's own layers where the library's backbone is (KerasCV's ResNets are), and
then a saved model loads without the library.
"""

import importlib
import json

import keras
import numpy as np
from keras import layers

from pac_keras.data.image import Preprocessing

LIBRARIES = ("keras_cv", "keras_hub")
LEVELS = (2, 3, 4, 5)
EXPECTATIONS = ("normalized", "0..255", "0..1")  # of pixels, RGB
_PROBE = 64  # side of the picture that strides are measured with


def pretrained(backbone, *, expects=None, frozen=True, mean=None, std=None):
    """A `PretrainedBackbone` for the `backbone` argument of a system.

    Args:
        backbone: a backbone model of KerasCV (`pyramid_level_inputs`) or KerasHub
            (`pyramid_outputs`) that has the levels P2 to P5; or the name of a KerasCV preset, as
            "resnet50_imagenet", or the folder of one, both handed to KerasCV's `from_preset`.
        expects: the pixels it was trained on: "normalized" as ours are, or "0..255" or "0..1", RGB.
            None: of KerasCV 0..255 if it has `include_rescaling`, else 0..1; of KerasHub, whose
            rescaling is not in the backbone, "normalized", which is right for its ResNets.
        frozen: see `PretrainedBackbone`.
        mean, std: those of the model's `Preprocessing`, three numbers each; None = its defaults.

    Raises:
        ImportError: a preset, but no KerasCV.
        OSError: the preset could not be downloaded.
        ValueError: unknown preset, no such levels, other strides, or an input of fixed size.
    """
    source = _from_preset(backbone) if isinstance(backbone, str) else backbone
    pyramid = _pyramid(source)
    if expects is None:
        expects = "normalized"
        if _library(source) == "keras_cv":
            expects = "0..255" if source.include_rescaling else "0..1"
    usual = Preprocessing()
    return PretrainedBackbone(
        keras.Model(source.inputs, pyramid, name=source.name),
        expects=expects,
        frozen=frozen,
        mean=usual.mean if mean is None else mean,
        std=usual.std if std is None else std,
    )


@keras.saving.register_keras_serializable("pac_keras")
class PretrainedBackbone(layers.Layer):
    """`call(pixels [B, H, W, 3]) -> {2..5: [B, H/4.., W/4.., C]}`; `pretrained` makes it.

    `pixels` are normalised, as everywhere; they are turned back into what the weights were trained
    on. The zeros of the padding become `mean`, grey.

    Args:
        model: functional model, pixels -> [P2, P3, P4, P5].
        expects: "normalized", "0..255" or "0..1", the pixels that `model` takes.
        frozen: True keeps the stored batch statistics in training (scale and offset are still
            trained), as norm="frozen" of `ResNet` does, and leaves dropout out. False uses and
            updates them, on each device by itself.
        mean, std: what `pixels` were normalised with.
    """

    def __init__(self, model, expects, frozen, mean, std, **kwargs):
        super().__init__(**kwargs)
        if expects not in EXPECTATIONS:
            raise ValueError(
                f"`expects` must be one of {list(EXPECTATIONS)}. Received: {expects!r}"
            )
        _check_strides(model)
        self.model = model
        self.expects, self.frozen = expects, bool(frozen)
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))

    def call(self, pixels, training=None):
        if self.expects != "normalized":
            mean, std = (np.asarray(x, "float32") for x in (self.mean, self.std))
            factor = 1.0 / 255.0 if self.expects == "0..1" else 1.0
            pixels = pixels * (std * factor) + mean * factor
        maps = self.model(pixels, training=False if self.frozen else training)
        return dict(zip(LEVELS, maps, strict=True))

    def untouched_statistics(self):
        """Names of batch norms whose frozen statistics are still the initial mean 0, variance 1."""
        return [
            layer.path
            for layer in self.model._flatten_layers()
            if isinstance(layer, layers.BatchNormalization)
            and (self.frozen or not layer.trainable)
            and not np.any(layer.moving_mean)
            and np.all(np.asarray(layer.moving_variance) == 1)
        ]

    def get_config(self):
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "expects": self.expects,
            "frozen": self.frozen,
            "mean": self.mean,
            "std": self.std,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for library in LIBRARIES:  # layers of its own are registered by its import
            if f'"{library}>' in json.dumps(config["model"]):
                _import(library)
        config["model"] = keras.saving.deserialize_keras_object(config["model"])
        return cls(**config)


def _from_preset(preset):
    """KerasCV's backbone of that name or folder, with its weights."""
    library = _import("keras_cv")
    families = [
        family
        for family in vars(library.models).values()
        if isinstance(family, type) and issubclass(family, library.models.Backbone)
    ]
    # A family lists its presets; folders and full handles go to the general one.
    owners = [family for family in families if preset in family.presets]
    try:
        return (owners or [library.models.Backbone])[0].from_preset(preset)
    except OSError as error:
        raise OSError(
            f"Preset {preset!r}: KerasCV could not download it ({type(error).__name__}). Load it "
            "once on a machine with network: it lies below ~/.cache/kagglehub then, a folder with "
            "config.json and model.weights.h5, and that folder can be given here instead. Or "
            "build the backbone, `load_weights` from a file, and give the backbone."
        ) from error


def _import(library):
    try:
        return importlib.import_module(library)
    except ImportError as error:
        name = library.replace("_", "-")
        raise ImportError(f"This backbone needs {library}: pip install {name} ({error})") from error


def _library(source):
    """The package that `source`'s class comes from."""
    return type(source).__module__.partition(".")[0]


def _pyramid(source):
    """The outputs P2..P5 of a backbone, as a list."""
    if not isinstance(source, keras.Model):
        raise ValueError(
            "`backbone` must be a KerasCV or KerasHub backbone, or the name of a preset. "
            f"Received: {type(source).__name__}"
        )
    if _library(source) == "keras_cv":
        names = getattr(source, "pyramid_level_inputs", {})
        pyramid = {level: source.get_layer(name).output for level, name in names.items()}
    else:
        pyramid = getattr(source, "pyramid_outputs", {})
    missing = [f"P{level}" for level in LEVELS if f"P{level}" not in pyramid]
    if missing:
        raise ValueError(
            f"{type(source).__name__} {source.name!r} cannot be a backbone: it needs pyramid "
            f"outputs P2 to P5, and has {sorted(pyramid) or 'none'}"
        )
    return [pyramid[f"P{level}"] for level in LEVELS]


def _check_strides(model):
    """Raises a ValueError unless pictures of any size become maps at strides 4, 8, 16 and 32."""
    expected = tuple(model.inputs[0].shape[1:])
    if expected != (None, None, 3):
        raise ValueError(
            f"{model.name!r} cannot be a backbone: its input is {expected}, expected "
            "(None, None, 3): build it with input_shape=(None, None, 3)"
        )
    maps = model.compute_output_spec(keras.KerasTensor((1, _PROBE, _PROBE, 3)))
    strides = [_PROBE / side for found in maps for side in found.shape[1:3]]
    if strides != [2.0**level for level in LEVELS for _ in range(2)]:
        raise ValueError(
            f"{model.name!r} cannot be a backbone: its levels P2 to P5 have strides "
            f"{strides[::2]}, expected [4, 8, 16, 32]"
        )
