"""What one-stage systems keep to beside the contract: no proposals, masks larger than boxes."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from pac_keras import RDSNet, RDSNetS
from pac_keras.heads.dense import match_anchors
from pac_keras.structures import CROWD

tf = pytest.importorskip("tensorflow")


@pytest.fixture(scope="module", params=tiny.ONE_STAGE, ids=lambda system: system.__name__)
def system(request):
    return request.param


@pytest.fixture(scope="module")
def model(system):
    return tiny.build(system)


def test_masks_lie_in_frames_around_the_regressed_boxes(system):
    boxes = {}
    for expand in (1.0, 1.2):
        model = tiny.build(system, box_refinement="none", test_expand=expand)
        found = tiny.numbers(model(tiny.tensors(tiny.images())))
        boxes[expand] = found["boxes"]
        if expand == 1.0:
            np.testing.assert_array_equal(found["mask_frames"], found["boxes"])
    np.testing.assert_array_equal(boxes[1.0], boxes[1.2])
    valid = found["labels"] >= 0
    frames, boxes = found["mask_frames"][valid], found["boxes"][valid]
    assert np.all(frames[:, :2] <= boxes[:, :2]) and np.all(frames[:, 2:] >= boxes[:, 2:])
    area = lambda x: np.prod(x[:, 2:] - x[:, :2], axis=-1)  # noqa: E731
    assert np.all(area(frames) > area(boxes) * 0.999) and np.any(area(frames) > area(boxes))


def test_a_crowd_is_no_background(model):
    sizes = (64, 96), (64, 64)
    crowd = tiny.loss_values(model, tiny.batch(((CROWD,), (CROWD,)), sizes))
    some = tiny.loss_values(model, tiny.batch((1, 1), sizes))
    assert crowd["class"] == 0 and some["class"] > 0


def test_no_anchor_target_lies_in_the_padding(model):
    """Any other answer of the head there leaves its losses as they are."""
    images, truth = tiny.tensors(tiny.batch((3, 2), ((64, 96), (32, 64))))
    anchors = model.flatten_all(model.head(model.encode(images)))[0]
    matches = match_anchors(anchors, images.sizes, truth)
    centre = ops.convert_to_numpy(anchors[:, :2] + anchors[:, 2:]) / 2
    outside = (centre[:, 0] >= 64) | (centre[:, 1] >= 32)
    labels = ops.convert_to_numpy(matches.labels)[1]
    assert np.all(labels[outside] == -1) and np.any(outside)
    assert not np.any(ops.convert_to_numpy(matches.positive)[1][outside])
    assert np.mean(labels[~outside] != -1) > 0.5


def test_mixed_precision_keeps_boxes_in_float32(system):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = tiny.build(system)
        # 1 / 3 of a pixel at x = 900 is lost in half precision.
        found = model(tiny.tensors(tiny.images(((64, 1024),) * 2, (64, 1024))))
    finally:
        keras.config.set_dtype_policy(policy)
    assert model.backbone.compute_dtype == "bfloat16"
    for name, value in tiny.numbers(found).items():
        assert value.dtype == ("int32" if name == "labels" else "float32"), name
        assert np.all(np.isfinite(value)), name
    frames = ops.convert_to_numpy(found.mask_frames)
    assert np.any(frames != np.asarray(tf.cast(frames, tf.bfloat16), "float32"))


def test_the_second_run_trains_the_refinement_alone(system):
    model = tiny.build(system, trained_part="box_refinement", norm="batch")
    assert [v.path.split("/")[-1] for v in model.trainable_variables] == ["kernel", "bias"]
    model.compile(keras.optimizers.SGD(0.05), weight_decay=0.0, run_eagerly=True)
    batch = tiny.batch((3, 3))
    _put_objects_where_something_is_found(model, batch)
    before = {v.path: ops.convert_to_numpy(v) for v in model.weights if "seed" not in v.path}
    losses = [float(model.train_step(tiny.tensors(batch))["edges"]) for _ in range(4)]
    assert losses[0] > 0 and losses[-1] < losses[0]
    moved = {v.path for v in model.weights if v.path in before and np.any(before[v.path] != v)}
    assert moved == {v.path for v in model.trainable_variables}


def _put_objects_where_something_is_found(model, batch):
    """Makes the objects of `batch` the first detections, one pixel larger."""
    found = tiny.numbers(model.segment(tiny.tensors(batch.images))[0])
    sizes = np.tile(batch.images.sizes[:, ::-1], 2)[:, None]
    count = batch.ground_truth.boxes.shape[1]
    boxes = np.clip(found["boxes"][:, :count] + [-1, -1, 1, 1], 0, sizes)
    batch.ground_truth.boxes[:] = boxes


def test_the_first_run_leaves_the_refinement_alone(model):
    trained = {v.path for v in model.trainable_variables}
    assert model.refinement.variables and not trained & {v.path for v in model.refinement.variables}


def test_refinement_moves_boxes_and_nothing_else(system):
    answers = {}
    for kind in ("none", "direct", "bayes"):
        model = tiny.build(system, box_refinement=kind)
        answers[kind] = tiny.numbers(model(tiny.tensors(tiny.images())))
    for kind in ("direct", "bayes"):
        assert np.any(answers[kind]["boxes"] != answers["none"]["boxes"])
        for name in ("labels", "scores", "masks", "mask_frames"):
            np.testing.assert_array_equal(answers[kind][name], answers["none"][name], err_msg=name)


def test_fast_and_greedy_detectors():
    """The two detectors' own parts: sigmoid over K classes, softmax over K + 1."""
    counts = {RDSNet: 9 * tiny.CLASSES, RDSNetS: 3 * (tiny.CLASSES + 1)}
    for system, channels in counts.items():
        model = tiny.build(system)
        maps = model.head(model.encode(tiny.tensors(tiny.images())))
        assert {level: fields[0].shape[-1] for level, fields in maps.items()} == dict.fromkeys(
            range(3, 8), channels
        )
