import numpy as np
import pytest

from pac_keras.data.repeat import copy_numbers, repeat_factors, repeated
from tests.data_pipeline.list_source import ONE, dataset, ids


def labels(*rows):
    return [np.asarray(row, "int32") for row in rows]


def test_factors_by_hand():
    # Class 0 is in 4 of 4 pictures, 1 in 1, 3 in 2: sqrt(0.75 / f) = 0.87, 1.73, 1.22.
    # Class 2 is in none.
    rows = labels([0, 0], [0, 1, 3, 3], [0], [3, 0])
    expected = [1, np.sqrt(3), 1, np.sqrt(1.5)]
    np.testing.assert_allclose(repeat_factors(rows, 0.75), expected)
    np.testing.assert_allclose(repeat_factors(rows, 0.25), [1, 1, 1, 1])


def test_crowd_is_no_class():
    rows = labels([-2], [0, -2], [0], [0])
    np.testing.assert_allclose(repeat_factors(rows, 1.0), [1, *[np.sqrt(4 / 3)] * 3])


def test_fractions_are_rounded_both_ways_and_right_on_average():
    indices, factors = np.asarray([7, 5, 9, 2]), np.asarray([1.0, 2.25, 1.5, 1.5])
    counts = []
    for seed in range(4000):
        drawn = repeated(indices, factors, np.random.default_rng(seed))
        counts.append([np.count_nonzero(drawn == index) for index in indices])
    counts = np.asarray(counts)
    assert set(counts.sum(axis=1)) == {6, 7}  # of 6.25
    assert [sorted(set(column)) for column in counts.T.tolist()] == [[1], [2, 3], [1, 2], [1, 2]]
    np.testing.assert_allclose(counts.mean(axis=0), factors, atol=0.03)  # deviation 0.008


def test_whole_factors_are_exact():
    for seed in range(20):
        drawn = repeated(np.arange(3), np.asarray([1.0, 3.0, 2.0]), np.random.default_rng(seed))
        assert drawn.tolist() == [0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("indices", "expected"), [([4, 2, 4, 4, 2, 9], [0, 0, 1, 2, 1, 0]), ([], [])]
)
def test_copies_are_numbered_in_their_order(indices, expected):
    assert copy_numbers(np.asarray(indices, "int64")).tolist() == expected


TWO = [((4, 6, 20, 26), 0)]


def repeating(threshold, **options):
    """Eight pictures with class 1, the last with class 0 instead: f = 7/8 and 1/8."""
    options = {"batch_size": 3, "repeat_threshold": threshold, **options}
    return dataset([(32, 32)] * 8, [ONE] * 7 + [TWO], training=True, **options)


def test_rare_classes_are_shown_more_often():
    data = repeating(0.5)  # factors 1 and sqrt(0.5 / (1/8)) = 2
    for epoch in range(5):
        shown = ids(data.batches(epoch, 1))
        assert [len(batch) for batch in shown] == [3, 3, 3] and len(data) == 3
        counts = np.bincount(np.concatenate(shown) - 100)
        assert counts.tolist() == [1] * 7 + [2]
    assert data.max_objects == 1


def test_fractions_vary_from_epoch_to_epoch_but_not_its_length():
    data = repeating(1.0, batch_size=5)  # factors sqrt(8/7) and sqrt(8): 10.3 pictures
    assert len(data) == 3
    epochs = [ids(data.batches(epoch, 1)) for epoch in range(6)]
    assert all([len(batch) for batch in epoch] == [5, 5, 5] for epoch in epochs)
    chosen = [np.bincount(np.concatenate(epoch) - 100, minlength=8) for epoch in epochs]
    assert all(counts.min() >= 1 and counts[7] >= 2 for counts in chosen)
    assert len({tuple(counts[:7]) for counts in chosen}) > 1
    assert ids(repeating(1.0, batch_size=5).batches(4, 1)) == epochs[4]
    assert ids(data.batches(0, 2, start_step=1)) == epochs[0][1:] + epochs[1]


def test_copies_of_a_picture_are_augmented_anew():
    truths = [batch.ground_truth for batch in repeating(0.5, batch_size=1).batches(0, 8)]
    left = [truth.boxes[0, 0, 0] for truth in truths if truth.image_ids[0] == 107]
    assert len(left) == 16 and set(left) == {4, 12}  # as it is, flipped
    assert any(first != second for first, second in zip(left[::2], left[1::2], strict=True))


def test_without_rare_classes_nothing_changes():
    sizes = [(32, 40), (64, 32), (32, 60), (32, 32), (32, 33)]
    plain, same = (dataset(sizes, training=True, repeat_threshold=t) for t in (None, 1.0))
    assert len(plain) == len(same)
    for first, second in zip(plain.batches(0, 2), same.batches(0, 2), strict=True):
        assert first.ground_truth.image_ids.tolist() == second.ground_truth.image_ids.tolist()
        np.testing.assert_array_equal(first.images.pixels, second.images.pixels)


def test_dropped_pictures_do_not_count_for_repeats():
    objects = [[]] * 4 + [ONE] * 3 + [ONE + TWO]  # f = 4/4 and 1/4
    options = {"training": True, "batch_size": 5, "repeat_threshold": 1.0}
    (batch,) = dataset([(32, 32)] * 8, objects, **options)
    assert sorted(batch.ground_truth.image_ids) == [104, 105, 106, 107, 107]
