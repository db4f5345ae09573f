"""What every system keeps to, whatever is in it."""

import functools

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from pac_keras import MaskRCNN
from pac_keras.heads.semantic import semantic_loss
from pac_keras.structures import CROWD, IGNORED_PIXEL, PADDING
from pac_keras.training import checkpoint

tf = pytest.importorskip("tensorflow")


@pytest.fixture(scope="module", params=tiny.SYSTEMS, ids=lambda system: system.__name__)
def system(request):
    return request.param


@pytest.fixture(scope="module", params=tiny.TWO_STAGE, ids=lambda system: system.__name__)
def two_stage(request):
    return request.param


@functools.cache
def _built(system):
    return tiny.build(system)


@pytest.fixture(scope="module")
def model(system):
    return _built(system)


@pytest.fixture(scope="module")
def proposing(two_stage):
    """A model with a region proposal network."""
    return _built(two_stage)


@pytest.fixture(scope="module")
def fixed(system):
    return tiny.fix_proposals(tiny.build(system))


# ---- what comes out ------------------------------------------------------------------------------


def test_shapes_dtypes_and_ranges_of_detections(system, model):
    side = tiny.mask_side(system)
    found = tiny.numbers(model(tiny.tensors(tiny.images())))
    shapes = {name: (value.shape, value.dtype.name) for name, value in found.items()}
    assert shapes == {
        "boxes": ((2, 10, 4), "float32"),
        "labels": ((2, 10), "int32"),
        "scores": ((2, 10), "float32"),
        "box_scores": ((2, 10), "float32"),
        "masks": ((2, 10, side, side), "float32"),
        "mask_frames": ((2, 10, 4), "float32"),
    }
    assert set(np.unique(found["labels"])) <= {PADDING, *range(tiny.CLASSES)}
    assert np.any(found["labels"] >= 0)
    for name in ("scores", "box_scores", "masks"):
        assert found[name].min() >= 0 and found[name].max() <= 1
    assert np.all(np.diff(found["scores"], axis=1) <= 0)  # best first
    if system in tiny.TWO_STAGE:
        np.testing.assert_array_equal(found["mask_frames"], found["boxes"])


def test_rows_without_detection_are_empty_and_last(system):
    model = tiny.build(system, score_threshold=0.0, max_detections=900)
    found = tiny.numbers(model(tiny.tensors(tiny.images())))
    absent = found["labels"] == PADDING
    assert 0 < np.sum(absent) < absent.size
    assert np.all(np.diff(absent.astype(int), axis=1) >= 0)
    for name in ("boxes", "scores", "box_scores", "masks", "mask_frames"):
        assert not np.any(found[name][absent])


@pytest.mark.parametrize(
    "objects",
    [(0, 0), (1, 0), ((CROWD,), (CROWD,)), (12, 12)],
    ids=["no object", "one object", "only crowd", "all rows taken"],
)
def test_losses_are_finite(model, objects):
    losses = tiny.loss_values(model, tiny.batch(objects))
    assert np.all(np.isfinite(list(losses.values()))), losses
    assert set(losses) == {tracker.name for tracker in model.trackers}
    if "rpn_objectness" in losses:
        assert losses["rpn_objectness"] > 0 or objects[0] == (CROWD,)
    has_objects = not isinstance(objects[0], tuple) and objects[0] > 0
    for name in losses:
        if "mask" in name or name in ("rpn_box", "box", "stage1_box"):
            assert (losses[name] > 0) == has_objects, name


def test_a_crowd_is_no_background(proposing):
    """A crowd over the whole picture: no region has a class loss; without it all of them have."""
    sizes = (64, 96), (64, 64)  # multiples of 32: no anchor's centre is outside, in any system
    crowd = tiny.loss_values(proposing, tiny.batch(((CROWD,), (CROWD,)), sizes))
    empty = tiny.loss_values(proposing, tiny.batch((0, 0), sizes))
    names = [name for name in crowd if name.endswith(("objectness", "class"))]
    assert len(names) == 1 + len(tiny.stages(proposing))
    for name in names:
        assert crowd[name] == 0 and empty[name] > 0, name


def test_every_trainable_variable_gets_a_gradient(system):
    # Large enough for an anchor of P5 inside the picture, and every anchor is sampled. One-stage
    # systems have losses at anchors near an object alone: there must be some for each level.
    samples = {"rpn_samples": 20000, "roi_samples": 64}
    model = tiny.build(system, seed=2, **(samples if system in tiny.TWO_STAGE else {}))
    objects = 5 if system in tiny.TWO_STAGE else 40
    size = (288, 320) if system in tiny.TWO_STAGE else (256, 416)
    batch = tiny.tensors(tiny.batch((objects,), (size,), size, seed=1))
    with tf.GradientTape() as tape:
        total, _ = model.mean_losses(batch, True)
    gradients = tape.gradient(total, model.trainable_variables)
    assert len(gradients) > 80
    without = [
        variable.path
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True)
        if gradient is None or not np.any(gradient)
    ]
    assert not without
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_a_seed_decides_the_first_weights_and_no_two_layers_start_alike(system):
    def kernels():
        model = tiny.build(system, seed=5)
        return [ops.convert_to_numpy(v) for v in model.weights if v.name == "kernel"]

    drawn = kernels()
    assert len(drawn) > 30 and all(map(np.array_equal, drawn, kernels()))
    starts = [kernel.ravel()[:8] / kernel.std() for kernel in drawn]
    assert len(np.unique(np.round(starts, 3), axis=0)) == len(drawn)


# ---- padding -------------------------------------------------------------------------------------


def test_extra_object_rows_change_no_loss(fixed):
    few = tiny.loss_values(fixed, tiny.batch((3, 1), rows=3))
    many = tiny.loss_values(fixed, tiny.batch((3, 1), rows=11))
    assert few == pytest.approx(many, rel=1e-5)


def test_extra_region_rows_change_nothing(two_stage):
    batch = tiny.batch((3, 1))
    few, many = (tiny.fix_proposals(tiny.build(two_stage), extra=extra) for extra in (0, 9))
    assert tiny.loss_values(few, batch) == pytest.approx(tiny.loss_values(many, batch), rel=1e-5)
    expected = tiny.numbers(few(tiny.tensors(batch.images)))
    found = tiny.numbers(many(tiny.tensors(batch.images)))
    assert np.any(expected["labels"] >= 0)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4, err_msg=name)


def test_no_anchor_target_lies_in_the_padding(proposing):
    """Any other answer of the RPN there, and a larger canvas, leave its losses as they are."""
    # Multiples of 32: the reference lets anchors of Mask R-CNN reach to the next one.
    images, truth = tiny.tensors(tiny.batch((3, 2), ((64, 96), (32, 64))))
    maps = proposing.rpn(proposing.encode(images))
    expected = _sums(proposing.rpn_losses(maps, images.sizes, truth))
    assert all(value > 0 for value in expected.values())
    disturbed = {level: _disturbed(fields, level, images.sizes) for level, fields in maps.items()}
    enlarged = {level: _enlarged(fields, level) for level, fields in maps.items()}
    assert np.any(ops.convert_to_numpy(disturbed[2][0] != maps[2][0])[1])
    for changed in (disturbed, enlarged):
        losses = _sums(proposing.rpn_losses(changed, images.sizes, truth))
        assert losses == pytest.approx(expected, rel=1e-5)
    everywhere = {level: [field + 3.0 for field in fields] for level, fields in maps.items()}
    changed = _sums(proposing.rpn_losses(everywhere, images.sizes, truth))
    assert all(abs(changed[name] - expected[name]) > 0.1 for name in expected)


def _sums(losses):
    return {name: float(total) for name, (total, _) in losses.items()}


def _disturbed(fields, level, sizes):
    """Maps of a level with 3 added in all cells that begin outside the picture."""
    height, width = fields[0].shape[1:3]
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    corners = np.stack([y, x], axis=-1)[None] * 2**level
    outside = np.any(corners >= ops.convert_to_numpy(sizes)[:, None, None], axis=-1)
    return [field + 3.0 * outside[..., None].astype("float32") for field in fields]


def _enlarged(fields, level):
    """Maps of a level as those of a canvas that is 64 pixels larger, 3 in the new cells."""
    cells = 64 // 2**level
    padding = ((0, 0), (0, cells), (0, cells), (0, 0))
    return [ops.pad(field, padding, constant_values=3.0) for field in fields]


@pytest.mark.parametrize("training", [False, True])
def test_no_proposal_lies_in_the_padding(proposing, training):
    images = tiny.tensors(tiny.images(((64, 96), (64, 96))))
    maps = proposing.rpn(proposing.encode(images))
    sizes = np.asarray([[40, 56], [64, 96]], "int32")
    rois = proposing.propose(maps, ops.convert_to_tensor(sizes), training)
    valid = ops.convert_to_numpy(rois.valid) > 0
    boxes = ops.convert_to_numpy(rois.boxes)
    assert np.all(valid.any(axis=1))
    _assert_inside(boxes, valid, sizes)
    with pytest.raises(AssertionError):  # the same maps do propose regions there
        _assert_inside(boxes, valid, sizes[:1].repeat(2, axis=0))


def test_no_detection_lies_in_the_padding(model):
    sizes = ((40, 56), (64, 96))
    found = tiny.numbers(model(tiny.tensors(tiny.images(sizes))))
    valid = found["labels"] >= 0
    assert np.all(valid.any(axis=1))
    _assert_inside(found["boxes"], valid, np.asarray(sizes))
    with pytest.raises(AssertionError):
        _assert_inside(found["boxes"], valid, np.asarray(sizes[:1] * 2))


def _assert_inside(boxes, valid, sizes):
    edges = np.tile(sizes[:, ::-1], 2)[:, None]
    assert np.all(boxes[valid] >= 0) and np.all((boxes <= edges)[valid])
    assert np.all((boxes[..., 2:] > boxes[..., :2])[valid])


@pytest.mark.parametrize("semantic", tiny.SEMANTIC)
def test_no_semantic_loss_lies_in_the_padding(semantic):
    model = tiny.build(semantic)
    images, truth = tiny.tensors(tiny.batch((2, 2), ((64, 96), (40, 56))))
    logits = model.sources(model.encode(images))[1]
    assert logits.shape == (2, 8, 12, tiny.SEMANTIC_CLASSES)
    total, count = semantic_loss(logits, truth.semantic)
    assert float(count) == 8 * 12 + 5 * 7 and float(total) > 0
    noise = np.random.default_rng(0).normal(size=logits.shape).astype("float32")
    noise[0] = noise[1, :5, :7] = 0
    changed, _ = semantic_loss(logits + noise, truth.semantic)
    assert float(changed) == pytest.approx(float(total), rel=1e-6)


def test_the_data_puts_nothing_into_the_padding():
    from pac_keras.data import shapes

    batch = next(iter(shapes(count=2, size=72, training=True, batch_size=2)))
    assert batch.images.pixels.shape == (2, 96, 96, 3)
    np.testing.assert_array_equal(batch.images.sizes, 72)
    assert not np.any(batch.images.pixels[:, 72:]) and not np.any(batch.images.pixels[:, :, 72:])
    present = batch.ground_truth.labels >= 0
    _assert_inside(batch.ground_truth.boxes, present, batch.images.sizes)
    semantic = batch.ground_truth.semantic
    assert semantic.shape == (2, 12, 12) and np.all(semantic[:, :9, :9] != IGNORED_PIXEL)
    assert np.all(semantic[:, 9:] == IGNORED_PIXEL) and np.all(semantic[:, :, 9:] == IGNORED_PIXEL)


# ---- precision -----------------------------------------------------------------------------------


def under_policy(name):
    """What a fixture yields from: models that are built meanwhile have that dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    yield
    keras.config.set_dtype_policy(before)


@pytest.fixture
def half_precision():
    yield from under_policy("mixed_bfloat16")


def test_mixed_precision_keeps_boxes_in_float32(two_stage, half_precision):
    model = tiny.build(two_stage)
    assert model.backbone.compute_dtype == "bfloat16"
    # 1 / 3 of a pixel at x = 900 is lost in half precision.
    images = tiny.tensors(tiny.images(((64, 1024),) * 2, (64, 1024)))
    assert model.encode(images)[2].dtype == "bfloat16"
    tiny.fix_proposals(model, size=(64, 1024))
    proposed = ops.convert_to_numpy(model.propose(None, images.sizes).boxes)
    assert np.any(proposed != np.asarray(tf.cast(proposed, tf.bfloat16), "float32"))
    seen = []
    stage = tiny.stages(model)[0]
    predict = stage.predict
    stage.predict = lambda pool, rois: (seen.append(rois.boxes), predict(pool, rois))[1]
    found = model(images)
    np.testing.assert_array_equal(seen[0], proposed)
    for name, value in tiny.numbers(found).items():
        assert value.dtype == ("int32" if name == "labels" else "float32"), name
        assert np.all(np.isfinite(value)), name
    boxes = ops.convert_to_numpy(found.boxes)
    assert np.any(boxes != np.asarray(tf.cast(boxes, tf.bfloat16), "float32"))


def test_mixed_precision_training_step_is_finite(system, half_precision):
    model = tiny.build(system)
    model.compile(keras.optimizers.SGD(0.01), clip_norm=10.0, run_eagerly=True)
    before = [ops.convert_to_numpy(value) for value in model.trainable_variables]
    logs = model.train_step(tiny.tensors(tiny.batch()))
    assert np.all(np.isfinite([float(value) for value in logs.values()]))
    after = [ops.convert_to_numpy(value) for value in model.trainable_variables]
    assert all(np.all(np.isfinite(value)) for value in after)
    assert all(value.dtype == "float32" for value in after)
    moved = [np.any(a != b) for a, b in zip(after, before, strict=True)]
    assert np.mean(moved) > 0.9


@pytest.fixture
def float16():
    yield from under_policy("mixed_float16")


def test_float16_passes_over_a_step_whose_gradient_overflows(float16, tmp_path):
    model = tiny.build(MaskRCNN)
    model.compile(keras.optimizers.SGD(0.01), clip_norm=10.0, run_eagerly=True)
    assert model.backbone.compute_dtype == "float16"
    batch = tiny.tensors(tiny.batch())
    model.optimizer.build(model.trainable_variables)
    before = [ops.convert_to_numpy(value) for value in model.trainable_variables]
    model.optimizer.dynamic_scale.assign(1e30)
    assert np.isfinite(float(model.train_step(batch)["loss"]))
    same = [ops.convert_to_numpy(value) for value in model.trainable_variables]
    assert all(map(np.array_equal, same, before))
    assert float(model.optimizer.dynamic_scale) < 1e30
    model.optimizer.dynamic_scale.assign(1024.0)
    model.train_step(batch)
    moved = [ops.convert_to_numpy(value) for value in model.trainable_variables]
    assert np.mean([np.any(a != b) for a, b in zip(moved, before, strict=True)]) > 0.9
    path = checkpoint.save(model, tmp_path, checkpoint.state_of(model, epoch=1))
    model.train_step(batch)
    checkpoint.restore(model, path)
    restored = [ops.convert_to_numpy(value) for value in model.trainable_variables]
    assert all(map(np.array_equal, restored, moved))
    assert float(model.optimizer.dynamic_scale) == 1024.0
