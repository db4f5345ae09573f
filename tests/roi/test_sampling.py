import keras
import numpy as np
import pytest
from builders import first, ground_truth, matches, numpy, rois
from keras import ops

from pac_keras.roi import sampling
from pac_keras.roi.sampling import NO_OBJECT, match, positives, sample_rois, sample_rows
from pac_keras.structures import CROWD, PADDING, Matches, Rois

OBJECTS = [[[0, 0, 10, 10], [20, 20, 40, 40]]]
LABELS = [[3, 5]]
REGIONS = [
    [0, 0, 10, 10],  # IoU 1 with object 0
    [0, 0, 10, 6],  # .6 with object 0
    [20, 20, 40, 28],  # .4 with object 1
    [50, 50, 60, 60],  # nothing
    [20, 20, 40, 24],  # .2 with object 1
]


def matched(regions, truth, thresholds, low_quality=None, valid=None, ties=True):
    """`match` of one picture as NumPy Matches without the batch axis."""
    boxes = np.asarray([regions], "float32")
    valid = np.ones(boxes.shape[:2], "float32") if valid is None else np.asarray([valid], "float32")
    found = match(boxes, valid, truth, thresholds, low_quality, ties=ties)
    return Matches(*(numpy(x)[0] for x in found))


def test_match_by_hand():
    found = matched(REGIONS, ground_truth(OBJECTS, LABELS), (0.3, 0.6))
    np.testing.assert_array_equal(found.labels, [3, 3, PADDING, NO_OBJECT, NO_OBJECT])
    np.testing.assert_array_equal(found.objects, [0, 0, 0, 0, 0])
    np.testing.assert_array_equal(found.positive, [1, 1, 0, 0, 0])


def test_low_quality_matches_give_every_object_its_best_regions():
    truth = ground_truth(OBJECTS, LABELS)
    regions = [*REGIONS, [20, 32, 40, 40]]  # also .4 with object 1
    found = matched(regions, truth, (0.3, 0.6), low_quality=0.3)
    np.testing.assert_array_equal(found.labels, [3, 3, 5, NO_OBJECT, NO_OBJECT, 5])
    np.testing.assert_array_equal(found.objects, [0, 0, 1, 0, 0, 1])
    too_low = matched(regions, truth, (0.3, 0.6), low_quality=0.41)
    np.testing.assert_array_equal(too_low.labels[2:], [PADDING, NO_OBJECT, NO_OBJECT, PADDING])


def test_without_ties_an_object_gets_the_first_of_its_best_regions():
    truth = ground_truth(OBJECTS, LABELS, extra=2)
    regions = [*REGIONS[:4], [20, 32, 40, 40], [20, 20, 40, 28]]  # three times .4 with object 1
    found = matched(regions, truth, (0.3, 0.6), low_quality=0.3, ties=False)
    np.testing.assert_array_equal(found.labels, [3, 3, 5, NO_OBJECT, PADDING, PADDING])
    np.testing.assert_array_equal(found.objects, [0, 0, 1, 0, 0, 0])
    found = matched(
        regions, truth, (0.3, 0.6), low_quality=0.3, valid=[1, 1, 0, 1, 1, 1], ties=False
    )
    np.testing.assert_array_equal(found.labels, [3, 3, PADDING, NO_OBJECT, 5, PADDING])
    too_low = matched(regions, truth, (0.3, 0.6), low_quality=0.41, ties=False)
    np.testing.assert_array_equal(too_low.labels[2:], [PADDING, NO_OBJECT, PADDING, PADDING])


@pytest.mark.parametrize("count", [16, 17, 40, 100])
@pytest.mark.parametrize("options", [{}, {"low_quality": 0.3}, {"low_quality": 0.3, "ties": False}])
def test_many_objects_a_few_at_a_time_are_matched_as_all_at_once(monkeypatch, count, options):
    random = np.random.default_rng(count)
    corners = random.uniform(0, 100, (2, count + 300, 2))
    boxes = np.concatenate([corners, corners + random.uniform(2, 40, corners.shape)], -1)
    labels = random.integers(0, 5, (2, count))
    labels[:, 3::7], labels[:, 5::11] = CROWD, PADDING
    objects, regions = boxes[:, :count], boxes[:, count:].astype("float32")
    objects[:, -1], regions[:, :5] = objects[:, 0], objects[:, :1]  # equal objects, and ties
    truth = ground_truth(objects, labels)
    valid = (random.uniform(size=regions.shape[:2]) < 0.9).astype("float32")
    found = match(regions, valid, truth, (0.3, 0.5), **options)
    monkeypatch.setattr(sampling, "_OBJECTS_AT_ONCE", count)
    expected = match(regions, valid, truth, (0.3, 0.5), **options)
    for name, value in expected._asdict().items():
        np.testing.assert_array_equal(numpy(getattr(found, name)), numpy(value), err_msg=name)
    assert len(np.unique(numpy(expected.objects))) > 4


def test_of_equal_objects_the_first_is_taken_and_low_quality_gives_the_last():
    truth = ground_truth([[OBJECTS[0][0], OBJECTS[0][0]]], [[1, 2]])
    assert matched(REGIONS, truth, (0.5, 0.5)).objects[0] == 0
    assert matched(REGIONS, truth, (0.5, 0.5), low_quality=0.5).objects[0] == 1


def test_padding_rows_are_never_matched():
    truth = ground_truth(OBJECTS, LABELS)
    zero = [0, 0, 0, 0]
    found = matched([*REGIONS, zero], truth, (0.5, 0.5), 0.5, valid=[1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(
        found.labels, [3, PADDING, NO_OBJECT, PADDING, NO_OBJECT, PADDING]
    )
    # An invalid region must not take an object's best place either.
    found = matched(REGIONS, truth, (0.3, 0.7), 0.5, valid=[0, 1, 1, 1, 1])
    np.testing.assert_array_equal(found.labels[:2], [PADDING, 3])


def test_objects_that_are_padding_change_nothing():
    for extra in (1, 4):
        for low_quality in (None, 0.3):
            plain = matched(REGIONS, ground_truth(OBJECTS, LABELS), (0.3, 0.6), low_quality)
            padded = ground_truth(OBJECTS, LABELS, extra=extra)
            for ours, other in zip(
                plain, matched(REGIONS, padded, (0.3, 0.6), low_quality), strict=True
            ):
                np.testing.assert_array_equal(ours, other)


def test_crowds_are_ignored_neither_object_nor_background():
    truth = ground_truth([[*OBJECTS[0], [45, 45, 70, 70]]], [[3, 5, CROWD]])
    outside = [65, 50, 85, 60]  # a quarter of it in the crowd
    found = matched([*REGIONS, outside], truth, (0.5, 0.5), 0.5)
    np.testing.assert_array_equal(found.labels, [3, 3, NO_OBJECT, PADDING, NO_OBJECT, NO_OBJECT])
    only_crowd = ground_truth([[[0, 0, 100, 100]]], [[CROWD]])
    found = matched(REGIONS, only_crowd, (0.3, 0.7), 0.3)
    np.testing.assert_array_equal(found.labels, [PADDING] * 5)
    assert not found.positive.any()


def test_without_objects_all_valid_regions_are_background():
    truth = ground_truth(np.zeros((1, 3, 4)), [[PADDING] * 3])
    found = matched(REGIONS, truth, (0.3, 0.7), 0.3, valid=[1, 1, 1, 1, 0])
    np.testing.assert_array_equal(found.labels, [*[NO_OBJECT] * 4, PADDING])


def rows_of(kinds, count, fraction, priority=first):
    """`sample_rows` of "p" positive, "b" background and "-" ignored rows."""
    labels = [{"p": 7, "b": NO_OBJECT, "-": PADDING}[kind] for kind in kinds]
    found = matches([[0] * len(kinds)], [labels], [[kind == "p" for kind in kinds]])
    return [numpy(x)[0] for x in sample_rows(found, count, fraction, priority)]


def test_sampled_rows_hold_positives_first_and_at_most_their_share():
    rows, valid, positive = rows_of("bpbppbpb", 4, 0.5)
    np.testing.assert_array_equal(rows, [1, 3, 0, 2])
    np.testing.assert_array_equal(valid, [1, 1, 1, 1])
    np.testing.assert_array_equal(positive, [1, 1, 0, 0])


def test_sampling_fewer_rows_than_asked_for():
    rows, valid, positive = rows_of("b-pb", 8, 0.5)
    np.testing.assert_array_equal(rows, [2, 0, 3, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(valid, [1, 1, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(positive, [1, 0, 0, 0, 0, 0, 0, 0])
    _, valid, positive = rows_of("--", 4, 0.25)
    assert not valid.any()
    assert not positive.any()


def test_background_does_not_grow_positives_beyond_their_share():
    _, valid, positive = rows_of("pppppb", 8, 0.25)
    np.testing.assert_array_equal(positive, [1, 1, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(valid, [1, 1, 1, 0, 0, 0, 0, 0])


def test_priority_decides_which_rows_are_sampled():
    last = lambda shape: -first(shape)  # noqa: E731
    rows, _, _ = rows_of("pbpbpb", 4, 0.5, last)
    np.testing.assert_array_equal(rows, [4, 2, 5, 3])


def sample(regions, truth, count, valid=None, threshold=0.5, low_quality=True):
    found = sample_rois(
        rois([regions], None if valid is None else [valid]), truth, 80, threshold, count, first,
        low_quality,
    )  # fmt: skip
    picked, matched = found
    return Rois(*(numpy(x)[0] for x in picked)), Matches(*(numpy(x)[0] for x in matched))


def test_objects_own_boxes_come_first_then_positives_then_background():
    picked, found = sample(REGIONS, ground_truth(OBJECTS, LABELS, extra=2), 16)
    expected = [*OBJECTS[0], REGIONS[0], REGIONS[1], REGIONS[2], REGIONS[3], REGIONS[4]]
    np.testing.assert_array_equal(picked.boxes[:7], expected)
    np.testing.assert_array_equal(picked.is_truth, [1, 1] + [0] * 14)
    np.testing.assert_array_equal(picked.valid, [1] * 7 + [0] * 9)
    np.testing.assert_array_equal(found.labels, [3, 5, 3, 3, 80, 80, 80] + [PADDING] * 9)
    np.testing.assert_array_equal(found.objects[:4], [0, 1, 0, 0])
    np.testing.assert_array_equal(found.positive, [1] * 4 + [0] * 12)
    assert not picked.boxes[7:].any()


def test_a_quarter_is_positive_at_most():
    truth = ground_truth(OBJECTS, LABELS)
    regions = [[0, 0, 10, 10]] * 20 + [[50, 50, 60, 60]] * 20
    picked, found = sample(regions, truth, 16)
    assert found.positive.sum() == 4
    np.testing.assert_array_equal(found.labels[:4], [3, 5, 3, 3])
    np.testing.assert_array_equal(found.labels[4:], [80] * 12)
    assert picked.valid.all()


def test_a_matched_low_quality_region_is_relabelled_only_from_the_threshold_on():
    truth = ground_truth([[[0, 0, 10, 10], [0, 0, 10, 6]]], [[1, 2]])
    regions = [[0, 0, 10, 8]]  # .8 with object 0, .75 with object 1, the best of both
    assert sample(regions, truth, 16, low_quality=True)[1].labels[2] == 2
    assert sample(regions, truth, 16, low_quality=False)[1].labels[2] == 1
    assert sample(regions, truth, 16, threshold=0.78)[1].labels[2] == 1
    assert sample(regions, truth, 16, threshold=0.9)[1].labels[2] == 80


def test_padding_and_crowds_do_not_change_a_sample():
    plain = sample(REGIONS, ground_truth(OBJECTS, LABELS), 8)
    invalid = [*REGIONS, [0, 0, 10, 10], [0, 0, 0, 0]]
    crowd = ground_truth([[*OBJECTS[0], [200, 200, 300, 300]]], [[3, 5, CROWD]], extra=3)
    padded = sample(invalid, crowd, 8, valid=[1] * 5 + [0] * 2)
    for ours, other in zip([*plain[0], *plain[1]], [*padded[0], *padded[1]], strict=True):
        np.testing.assert_array_equal(ours, other)


def test_a_crowd_s_box_is_never_sampled():
    truth = ground_truth([[[0, 0, 100, 100]]], [[CROWD]])
    regions = [*REGIONS, [90, 90, 190, 190]]
    picked, found = sample(regions, truth, 8)
    np.testing.assert_array_equal(found.labels, [80] + [PADDING] * 7)
    np.testing.assert_array_equal(picked.boxes[0], [90, 90, 190, 190])
    assert picked.valid.sum() == 1
    assert not found.positive.any()


def test_picture_without_objects_gives_background_alone():
    truth = ground_truth(np.zeros((1, 2, 4)), [[PADDING, PADDING]])
    picked, found = sample(REGIONS, truth, 4)
    np.testing.assert_array_equal(found.labels, [80] * 4)
    np.testing.assert_array_equal(picked.boxes, REGIONS[:4])


def test_random_samples_are_of_the_right_kind():
    seed = keras.random.SeedGenerator(0)
    priority = lambda shape: keras.random.uniform(shape, seed=seed)  # noqa: E731
    regions = np.tile(np.asarray(REGIONS, "float32"), (2, 20, 1))
    truth = ground_truth(OBJECTS * 2, LABELS * 2, extra=1)
    chosen = []
    for _ in range(2):
        picked, found = sample_rois(rois(regions), truth, 80, 0.5, 16, priority, True)
        labels, boxes = numpy(found.labels), numpy(picked.boxes)
        assert (numpy(found.positive).sum(axis=1) == 4).all()
        assert set(labels[:, :4].ravel()) <= {3, 5}
        assert (labels[:, 4:] == 80).all()
        negative = {tuple(box) for box in boxes[:, 4:].reshape(-1, 4)}
        assert negative <= {tuple(map(float, REGIONS[i])) for i in (2, 3, 4)}
        chosen.append(boxes)
    assert (chosen[0] != chosen[1]).any()


def test_positives_are_the_leading_quarter():
    picked, found = sample(REGIONS, ground_truth(OBJECTS, LABELS), 16)
    batched = Rois(*(x[None] for x in picked)), Matches(*(x[None] for x in found))
    mask_rois, mask_matches = positives(*batched)
    np.testing.assert_array_equal(mask_rois.boxes[0], picked.boxes[:4])
    np.testing.assert_array_equal(mask_matches.labels[0], [3, 5, 3, 3])
    few = sample(REGIONS[3:], ground_truth([OBJECTS[0][:1]], [[3]]), 16)
    mask_rois, mask_matches = positives(
        Rois(*(x[None] for x in few[0])), Matches(*(x[None] for x in few[1]))
    )
    np.testing.assert_array_equal(mask_rois.valid[0], [1, 0, 0, 0])
    assert ops.shape(mask_matches.labels) == (1, 4)
