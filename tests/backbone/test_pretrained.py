"""Foreign backbones: levels, pixels, frozen statistics, saving, and what cannot be one."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from pac_keras import PAC, Batch, GroundTruth, Images
from pac_keras.backbone.pretrained import PretrainedBackbone, pretrained

WHITE = (np.asarray([255.0] * 3) - (123.675, 116.28, 103.53)) / (58.395, 57.12, 57.375)


def keras_cv_resnet(include_rescaling=True, blocks=1):
    """KerasCV's ResNet of basic blocks, as its ResNet-18 but thin, with random weights."""
    import keras_cv

    return keras_cv.models.ResNetBackbone(
        stackwise_filters=[64, 16, 16, 24],
        stackwise_blocks=[blocks] * 4,
        stackwise_strides=[1, 2, 2, 2],
        include_rescaling=include_rescaling,
        block_type="basic_block",
    )


class Pools(keras.Model):
    """A backbone as KerasHub's: `pyramid_outputs` are means of the input at some strides."""

    def __init__(self, strides=(4, 8, 16, 32), levels=(2, 3, 4, 5), shape=(None, None, 3)):
        picture = keras.Input(shape)
        maps = [layers.AveragePooling2D(stride)(picture) for stride in strides]
        super().__init__(picture, maps)
        self.pyramid_outputs = {f"P{n}": x for n, x in zip(levels, maps, strict=True)}


def system(backbone, **arguments):
    keras.utils.set_random_seed(0)
    return PAC(
        3,
        backbone,
        channels=8,
        fc_channels=16,
        num_semantic_classes=4,
        pre_nms=(50, 50),
        max_proposals=(40, 30),
        rpn_samples=32,
        roi_samples=16,
        max_detections=5,
        **arguments,
    )


def batch():
    """Two pictures with two objects and one."""
    random = np.random.default_rng(0)
    boxes = np.zeros((2, 2, 4), "float32")
    boxes[0], boxes[1, 0] = [[4, 4, 40, 40], [20, 30, 90, 60]], [8, 8, 60, 50]
    truth = GroundTruth(
        boxes=boxes,
        labels=np.asarray([[0, 2], [1, -1]], "int32"),
        masks=np.ones((2, 2, 14, 14), "uint8"),
        mask_frames=boxes,
        semantic=random.integers(0, 4, (2, 8, 12)).astype("uint8"),
        image_ids=np.arange(2, dtype="int32"),
    )
    pixels = random.normal(size=(2, 64, 96, 3)).astype("float32")
    return Batch(Images(pixels, np.asarray([[64, 96], [60, 80]], "int32")), truth)


def fit_one_step(model):
    model.compile(keras.optimizers.SGD(0.01), clip_norm=10.0, run_eagerly=True)
    return model.fit((one for one in [batch()]), steps_per_epoch=1, epochs=1, verbose=0)


def test_levels_and_strides_of_keras_cv():
    maps = pretrained(keras_cv_resnet())(np.zeros((1, 64, 96, 3), "float32"))
    assert {level: tuple(x.shape) for level, x in maps.items()} == {
        2: (1, 16, 24, 64),
        3: (1, 8, 12, 16),
        4: (1, 4, 6, 16),
        5: (1, 2, 3, 24),
    }


@pytest.mark.parametrize(
    ("expects", "white", "mean"),
    [("0..255", 255.0, 123.675), ("0..1", 1.0, 123.675 / 255), ("normalized", WHITE[0], 0.0)],
)
def test_it_gets_the_pixels_it_was_trained_on(expects, white, mean):
    pixels = np.zeros((1, 32, 64, 3), "float32")
    pixels[:, :, :32] = WHITE
    maps = pretrained(Pools(), expects=expects)(pixels)
    seen = keras.ops.convert_to_numpy(maps[5])[0, 0, :, 0]
    np.testing.assert_allclose(seen, [white, mean], rtol=1e-4, atol=1e-6)


def test_pixels_were_normalised_with_these_numbers():
    backbone = pretrained(Pools(), expects="0..255", mean=(10, 20, 30), std=(2, 4, 8))
    seen = keras.ops.convert_to_numpy(backbone(np.ones((1, 32, 32, 3), "float32"))[5])
    np.testing.assert_allclose(seen[0, 0, 0], [12, 24, 38], rtol=1e-6)


def test_keras_cv_says_itself_what_it_expects():
    assert pretrained(keras_cv_resnet(include_rescaling=True)).expects == "0..255"
    assert pretrained(keras_cv_resnet(include_rescaling=False)).expects == "0..1"
    assert pretrained(Pools()).expects == "normalized"


def test_frozen_keeps_the_statistics_and_trains_scale_and_offset():
    pixels = batch().images.pixels
    for frozen in (True, False):
        backbone = pretrained(keras_cv_resnet(), frozen=frozen)
        before = [keras.ops.convert_to_numpy(w) for w in backbone.non_trainable_weights]
        backbone(pixels, training=True)
        after = [keras.ops.convert_to_numpy(w) for w in backbone.non_trainable_weights]
        assert len(before) == 2 * 12  # batch norms
        kept = [np.array_equal(*pair) for pair in zip(before, after, strict=True)]
        assert all(kept) if frozen else not any(kept)
        assert sum("gamma" in weight.path for weight in backbone.trainable_weights) == 12


def test_pac_trains_on_it():
    model = system(pretrained(keras_cv_resnet(), frozen=False))
    weights = model.backbone.trainable_weights
    before = [keras.ops.convert_to_numpy(weight) for weight in weights]
    history = fit_one_step(model).history
    assert np.isfinite(history["loss"]).all() and history["loss"][0] > 0
    changed = [
        not np.array_equal(old, keras.ops.convert_to_numpy(weight))
        for old, weight in zip(before, weights, strict=True)
    ]
    assert all(changed) and len(changed) == 3 * 12  # convolutions, scales, offsets


def test_frozen_random_weights_are_refused():
    model = system(pretrained(keras_cv_resnet(), frozen=True))
    with pytest.raises(ValueError, match=r"hold random weights: 12 batch norms.*frozen=False"):
        fit_one_step(model)
    for weight in model.backbone.non_trainable_weights:  # as if trained
        weight.assign(weight + 0.5)
    assert np.isfinite(fit_one_step(model).history["loss"]).all()


_RELOAD = """
import sys
import keras, numpy, pac_keras
model = keras.models.load_model(sys.argv[1])
assert "keras_cv" not in sys.modules, "keras_cv was imported"
assert (model.backbone.expects, model.backbone.frozen) == ("0..255", False)
pixels = numpy.load(sys.argv[2])
found = model(pac_keras.Images(pixels, numpy.asarray([[64, 96]] * 2, "int32")))
found = {name: keras.ops.convert_to_numpy(leaf) for name, leaf in found._asdict().items()}
numpy.savez(sys.argv[3], **found)
"""


def test_a_saved_model_loads_without_keras_cv(tmp_path):
    model = system(pretrained(keras_cv_resnet(), frozen=False), score_threshold=0.0)
    for weight in model.backbone.non_trainable_weights:
        weight.assign(weight + 0.25)
    images = Images(batch().images.pixels, np.asarray([[64, 96]] * 2, "int32"))
    expected = model(images)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "pixels.npy", images.pixels)
    files = [str(tmp_path / name) for name in ("model.keras", "pixels.npy", "found.npz")]
    subprocess.run([sys.executable, "-c", _RELOAD, *files], check=True)
    with np.load(files[2]) as found:
        assert (found["labels"] >= 0).all()
        for name, values in expected._asdict().items():
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-4)


def test_presets_are_passed_through_to_keras_cv(monkeypatch):
    import keras_cv

    asked = []

    def from_preset(name):
        asked.append(name)
        return keras_cv_resnet()

    monkeypatch.setattr(keras_cv.models.ResNetBackbone, "from_preset", from_preset)
    assert isinstance(pretrained("resnet50_imagenet"), PretrainedBackbone)
    assert asked == ["resnet50_imagenet"]


def test_a_preset_folder_holds_its_weights(tmp_path):
    from keras_cv.src.utils.preset_utils import save_to_preset

    source = keras_cv_resnet()
    save_to_preset(source, str(tmp_path / "preset"))
    backbone = pretrained(str(tmp_path / "preset"))
    pairs = zip(backbone.weights, source.weights, strict=True)
    assert all(np.array_equal(*map(keras.ops.convert_to_numpy, pair)) for pair in pairs)


def test_offline_the_error_says_what_to_do(monkeypatch):
    import keras_cv

    def from_preset(name):
        raise ConnectionError("Failed to resolve 'api.kaggle.com'")

    monkeypatch.setattr(keras_cv.models.ResNetBackbone, "from_preset", from_preset)
    with pytest.raises(OSError, match=r"'resnet50_imagenet'.*could not download.*folder"):
        pretrained("resnet50_imagenet")


def test_without_keras_cv_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    with pytest.raises(ImportError, match="pip install keras-cv"):
        pretrained("resnet50_imagenet")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.Dense(3), r"must be a KerasCV or KerasHub backbone.*Received: Dense"),
        (
            lambda: keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(3, 1)]),
            r"Sequential .* needs pyramid outputs P2 to P5, and has none",
        ),
        (lambda: Pools(levels=(3, 4, 5, 6)), r"P2 to P5, and has \['P3', 'P4', 'P5', 'P6'\]"),
        (lambda: Pools(strides=(2, 4, 8, 16)), r"strides \[2.0, 4.0, 8.0, 16.0\], expected \[4, 8"),
        (lambda: Pools(shape=(64, 64, 3)), r"its input is \(64, 64, 3\)"),
    ],
)
def test_what_cannot_be_a_backbone(make, message):
    with pytest.raises(ValueError, match=message):
        pretrained(make())


def test_unknown_expectation():
    with pytest.raises(ValueError, match=r"`expects` must be one of .*'0..1'.*'-1..1'"):
        pretrained(Pools(), expects="-1..1")
