"""What every system shares: the training step, the trackers of its losses, and how it is saved.

A system is a final subclass with `__init__` (its parts), `call` (Images -> Detections) and
`training_losses` (Batch -> {name: (sum, count)}). `fit`, `evaluate`, `predict` and `save` are
Keras's own; they also take a `pac_keras.data` Dataset.
"""

import inspect

import keras
import numpy as np
from keras import ops

import pac_keras
from pac_keras.backbone.pretrained import PretrainedBackbone
from pac_keras.backbone.resnet import ResNet
from pac_keras.choices import check_choice
from pac_keras.structures import Batch, GroundTruth, Images
from pac_keras.systems.feed import feed, is_dataset, original_error
from pac_keras.systems.replicas import SharedMean, over_replicas
from pac_keras.systems.versions import check_version

if keras.backend.backend() == "jax":
    from pac_keras.systems.jax_steps import JAXSteps as _Steps
else:
    from pac_keras.systems.tensorflow_steps import TensorFlowSteps as _Steps

_STRIDE = 32  # of the coarsest backbone map: canvases are multiples of it


class InstanceSegmenter(_Steps):
    """Base of all systems: backbone, training and test step, saving.

    Losses are sums and counts; only this class divides, by the count over all replicas, so that
    one and many devices compute the same gradient.

    Args:
        num_classes: K, things to find.
        backbone: "resnet18", "resnet50", "resnet101", "resnext101_32x4d", "resnext101_64x4d", or a
            layer that answers {2: C2, .. 5: C5} for pixels.
        base_channels, frozen_stages, norm: see `ResNet`; not used where `backbone` is a layer.
        sampling: "random", or "first": the lowest rows of each kind (for reproducible losses).

    Attributes:
        pyramid, random: what a subclass sets: a layer, the backbone's maps -> {level: map}; and
            the SeedGenerator of its sampling.
        mask_threshold: probability from which a pixel belongs to a mask.
        categories: (id, name) of each label, and preprocessing: how pictures become network
            input; None until `fit` takes both from the data.
    """

    mask_threshold = 0.5

    def __new__(cls, *args, **kwargs):
        instance = super().__new__(cls, *args, **kwargs)
        bound = inspect.signature(cls.__init__).bind(instance, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        arguments.update(arguments.pop("shared", {}))
        vars(instance)["_arguments"] = arguments
        return instance

    def __init__(
        self,
        num_classes,
        backbone,
        base_channels=64,
        frozen_stages=1,
        norm="frozen",
        sampling="random",
        **kwargs,
    ):
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"`num_classes` must be a positive int. Received: {num_classes!r}")
        check_choice("sampling", sampling, ("random", "first"))
        # Without autocast: sizes and pixels must not become half precision on the way in.
        super().__init__(autocast=False, **kwargs)
        self.num_classes = num_classes
        self.backbone = (
            ResNet(backbone, base_channels, frozen_stages, norm)
            if isinstance(backbone, str)
            else backbone
        )
        self.sampling = sampling
        self.categories = None
        self.preprocessing = None
        self.weight_decay, self.clip_norm = 0.0, None
        self.trackers = []

    def finish(self, *loss_names):
        """Ends a system's `__init__`: creates all variables, and a tracker for each named loss."""
        names = ["loss", *(name for name in loss_names if name)]
        self.trackers = [SharedMean(name=name) for name in names]
        size = np.full((1, 2), 2 * _STRIDE, "int32")
        self(Images(np.zeros((1, 2 * _STRIDE, 2 * _STRIDE, 3), "float32"), size))

    def build(self, input_shape=None):
        """Nothing: `finish` creates all variables by a call."""
        self.built = True

    def encode(self, images, training=False):
        """The pyramid {level: `[B, H / 2**level, .., channels]`} of Images."""
        if not isinstance(images, Images):
            raise TypeError(
                "A system takes pac_keras.Images(pixels, sizes): padded pictures and the "
                f"(height, width) of each. Received: {type(images).__name__}"
            )
        for name, side in zip(("height", "width"), images.pixels.shape[1:3], strict=True):
            if side is not None and side % _STRIDE:
                told = f"The {name} of `pixels` must be a multiple of {_STRIDE}. Received: {side}"
                raise ValueError(told)
        return self.pyramid(self.backbone(images.pixels, training=training))

    def sampling_priority(self, shape):
        """Order in which rows are sampled, float32 `shape`, highest first."""
        if self.sampling == "random":
            return keras.random.uniform(shape, seed=self.random)
        order = -ops.cast(ops.arange(shape[1]), "float32")
        return ops.broadcast_to(order[None], shape)

    def training_losses(self, batch, training=True):
        """Losses of a Batch as {name: (sum, count)}; False: with stored batch statistics."""
        raise TypeError(f"{type(self).__name__} must define `training_losses`")

    def compile(self, optimizer="sgd", weight_decay=1e-4, clip_norm=None, **kwargs):
        """Configures training.

        Args:
            optimizer: Keras optimizer, without clipping or L2 of its own.
            weight_decay: L2 that is added to the gradient of every trainable variable, after
                clipping, as PyTorch's SGD does; not part of the reported loss.
            clip_norm: global norm that the summed gradient is clipped to, or None.
            **kwargs: Keras's `run_eagerly`, `steps_per_execution`, and `jit_compile`, which on
                TensorFlow wants `fit` and `predict` inside `with pac_keras.kernels.portable()`.
        """
        if keras.backend.backend() == "tensorflow":  # Keras's "auto" is XLA on a single GPU
            kwargs.setdefault("jit_compile", False)
        super().compile(optimizer=optimizer, **kwargs)
        self.weight_decay, self.clip_norm = float(weight_decay), clip_norm

    def fit(self, x=None, *args, validation_data=None, initial_epoch=0, initial_step=0, **kwargs):
        """Keras's `fit`, which also takes Datasets of `pac_keras.data`.

        Args:
            initial_step: steps of a Dataset's `initial_epoch` that are over; with more than none,
                `epochs` is `initial_epoch + 1`.

        Raises:
            ValueError: frozen layers were never loaded, or the data has other class counts.
            data.bad_images.BadImageError: a picture cannot be read.
        """
        failures = []
        self._check_frozen()
        if is_dataset(x):
            self._adopt(x)
            kwargs = {"steps_per_epoch": len(x) - initial_step, "shuffle": False} | kwargs
            x = feed(x, initial_epoch, initial_step, failures, self._strategy())
        if is_dataset(validation_data):
            kwargs.setdefault("validation_steps", len(validation_data))
            validation_data = feed(validation_data, start_epoch=0)
        kwargs |= {"validation_data": validation_data, "initial_epoch": initial_epoch}
        with original_error(failures):
            return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        """Keras's `evaluate`: the losses of Batches or of a Dataset of `pac_keras.data`."""
        return super().evaluate(feed(x) if is_dataset(x) else x, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        """Keras's `predict`: Detections, NumPy, of Images or of a Dataset of `pac_keras.data`.

        All of a bare array of pixels is taken as valid.
        """
        if isinstance(x, np.ndarray):
            x = Images(x, np.tile(np.asarray([x.shape[1:3]], "int32"), (len(x), 1)))
        return super().predict(feed(x) if is_dataset(x) else x, *args, **kwargs)

    def _strategy(self):
        """That of `tf.distribute` which the model was built in; None on JAX."""
        return getattr(self, "distribute_strategy", None)

    def _check_frozen(self):
        known = isinstance(self.backbone, ResNet | PretrainedBackbone)
        if known and (untouched := self.backbone.untouched_statistics()):
            raise ValueError(
                f"Frozen parts of the backbone hold random weights: {len(untouched)} batch norms, "
                f"first {untouched[0]}, still have their initial statistics. Load pretrained "
                'weights first, or train all: frozen_stages=0, norm="batch" (or frozen=False).'
            )

    def _adopt(self, dataset):
        """Takes names of categories and preprocessing from the training data."""
        if dataset.num_classes != self.num_classes:
            counts = f"{dataset.num_classes} categories, the model num_classes={self.num_classes}"
            raise ValueError(f"The data has {counts}.")
        self.categories = tuple(tuple(category) for category in dataset.categories)
        self.preprocessing = dataset.preprocessing

    @property
    def metrics(self):
        return self.trackers

    def mean_losses(self, batch, training):
        """Total loss and its parts {name: loss}: sums divided by the counts of all replicas."""
        images, truth = batch
        batch = Batch(Images(*images), GroundTruth(*truth))
        sums = self.training_losses(batch, training)
        counts = ops.stack([ops.cast(count, "float32") for _, count in sums.values()])
        counts = ops.maximum(ops.stop_gradient(over_replicas(counts)), 1.0)
        counts = ops.unstack(counts, len(sums))
        losses = {n: s / count for (n, (s, _)), count in zip(sums.items(), counts, strict=True)}
        return sum(losses.values()), losses

    def _track(self, total, losses):
        """Updates the trackers with the losses of all replicas together; answers their means."""
        values = {"loss": total, **losses}
        names = [tracker.name for tracker in self.trackers]
        if set(values) != set(names):
            raise ValueError(f"training_losses answered {sorted(losses)}, expected {names[1:]}")
        summed = over_replicas(ops.stack([values[name] for name in names]))
        for tracker, value in zip(self.trackers, ops.unstack(summed, len(names)), strict=True):
            # Behind data of unknown length TensorFlow once more runs what does not depend on it.
            tracker.update_state(value, 1.0 - ops.cast(value < float("-inf"), "float32"))
        return self.get_metrics_result()

    def _finish_gradients(self, gradients, variables):
        """Gradients of the scaled loss clipped by their global norm, plus L2; scaled again."""
        scale = self.optimizer.scale_loss(ops.ones(()))  # 1 except under mixed_float16
        gradients = [ops.cast(g, "float32") / scale for g in gradients]
        if self.clip_norm is not None:
            norm = ops.sqrt(sum(ops.sum(ops.square(g)) for g in gradients))
            shrink = ops.minimum(1.0, self.clip_norm / (norm + 1e-6))
            gradients = [g * shrink for g in gradients]
        return [
            (g + self.weight_decay * ops.cast(v, "float32")) * scale
            for g, v in zip(gradients, variables, strict=True)
        ]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The total loss of Images `x` with GroundTruth `y`, for Keras's stock steps."""
        return self.mean_losses((x, y), training)[0]

    def get_config(self):
        config = {
            name: keras.saving.serialize_keras_object(value)
            if isinstance(value, keras.layers.Layer)
            else value
            for name, value in self._arguments.items()
        }
        config["categories"] = self.categories
        config["preprocessing"] = None if self.preprocessing is None else list(self.preprocessing)
        config["pac_keras_version"] = pac_keras.__version__
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        check_version(cls.__name__, config.pop("pac_keras_version", None))
        categories, preprocessing = config.pop("categories"), config.pop("preprocessing")
        if isinstance(config["backbone"], dict):
            config["backbone"] = keras.saving.deserialize_keras_object(config["backbone"])
        model = cls(**config)
        if categories is not None:
            model.categories = tuple(tuple(category) for category in categories)
        if preprocessing is not None:
            from pac_keras.data.image import Preprocessing

            fields = (tuple(x) if isinstance(x, list) else x for x in preprocessing)
            model.preprocessing = Preprocessing(*fields)
        return model

    def build_from_config(self, config):
        """Nothing, like `build`."""

    def get_compile_config(self):
        if not self.compiled:
            return None
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "weight_decay": self.weight_decay,
            "clip_norm": self.clip_norm,
        }

    def compile_from_config(self, config):
        config = dict(config)
        optimizer = keras.saving.deserialize_keras_object(config.pop("optimizer"))
        self.compile(optimizer, **config)
        optimizer.build(self.trainable_variables)
