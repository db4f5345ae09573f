import numpy as np
import pytest

from pac_keras.data import Augmentation, Dataset, Preprocessing, Segmentation
from pac_keras.data.collate import Layout, collate
from pac_keras.structures import CROWD, Batch
from tests.data_pipeline.list_source import ONE, PLAIN, ListSource, dataset, ids


def test_evaluation_groups_by_canvas_in_ascending_order():
    data = dataset([(32, 32), (32, 60), (32, 33), (32, 32), (32, 64), (32, 32)])
    batches = list(data)
    assert ids(batches) == [[100, 103], [105], [101, 102], [104]]
    shapes = [batch.images.pixels.shape[1:3] for batch in batches]
    assert shapes == [(32, 32), (32, 32), (32, 64), (32, 64)]
    assert len(data) == 4
    assert ids(data) == ids(batches)


def test_evaluation_keeps_empty_and_small_pictures():
    data = dataset([(32, 32), (8, 8)], [[], ONE])
    assert ids(data) == [[100, 101]]
    assert data.dropped == {}


def test_training_drops_what_teaches_nothing():
    crowd = [((0, 0, 9, 9), CROWD)]
    data = dataset([(32, 32), (31, 99), (32, 32), (32, 32)], [[], ONE, crowd, ONE], training=True)
    assert data.dropped == {"no objects": 2, "a side < 32 pixels": 1}
    assert data.indices == [3]
    with pytest.raises(ValueError, match=r"list: no picture to use out of 1; .*no objects"):
        dataset([(32, 32)], [[]], training=True)


def test_training_batches_are_full_of_one_aspect_and_share_a_canvas():
    sizes = [(32, 40), (64, 32), (32, 60), (32, 32), (32, 33)]
    data = dataset(sizes, training=True)
    for epoch in range(4):
        batches = list(data.batches(epoch, 1))
        assert len(batches) == len(data) == 3  # 3 landscape in two batches, 2 others in one
        seen = {key for batch in ids(batches) for key in batch}
        assert sorted(seen) == [100, 101, 102, 103, 104]
        for batch in batches:
            landscape = batch.ground_truth.image_ids[0] in (100, 102, 104)
            assert batch.images.pixels.shape == (2, *((32, 64) if landscape else (64, 32)), 3)
            assert {key in (100, 102, 104) for key in batch.ground_truth.image_ids} == {landscape}


def test_epochs_differ_and_are_reproducible():
    sizes = [(32, 32)] * 12
    data = dataset(sizes, training=True, augmentation=Augmentation(flip=0.5))
    first, second = list(data), list(data)
    assert ids(first) != ids(second)
    assert ids(dataset(sizes, training=True, seed=1)) != ids(first)
    again = list(dataset(sizes, training=True).batches(0, 2))
    flat = [leaf for batch in first + second for part in batch for leaf in part]
    for left, right in zip(
        flat, [leaf for batch in again for part in batch for leaf in part], strict=True
    ):
        np.testing.assert_array_equal(left, right)
    boxes = np.concatenate([batch.ground_truth.boxes[:, 0] for batch in first])
    assert {tuple(box) for box in boxes.tolist()} == {(4, 6, 20, 26), (12, 6, 28, 26)}


def test_batches_continue_from_a_position():
    data = dataset([(32, 32)] * 6, training=True)
    everything = ids(data.batches(0, 3))
    assert ids(data.batches(1, 2, start_step=1)) == everything[4:]
    endless = data.batches(2)
    assert ids(next(endless) for _ in range(3)) == everything[6:]


def test_short_sides_change_the_size_but_not_the_canvas():
    augmentation = Augmentation(flip=0, short_sides=(16, 24, 32))
    data = dataset([(32, 48)] * 8, training=True, augmentation=augmentation)
    batches = list(data)
    assert {batch.images.pixels.shape for batch in batches} == {(2, 32, 64, 3)}
    sizes = np.concatenate([batch.images.sizes for batch in batches]).tolist()
    assert len({tuple(size) for size in sizes}) > 1
    assert all(size in ([16, 24], [24, 36], [32, 48]) for size in sizes)


@pytest.mark.parametrize("training", [False, True])
def test_without_keep_ratio_every_picture_gets_the_same_size(training):
    square = PLAIN._replace(short_side=48, long_side=48, keep_ratio=False)
    sizes = [(32, 40), (96, 32), (48, 48)]
    options = {"preprocessing": square, "training": training, "augmentation": Augmentation(flip=0)}
    boxes = {}
    for batch in dataset(sizes, **options):
        assert batch.images.pixels.shape[1:] == (64, 64, 3)
        assert (batch.images.sizes == 48).all()
        truth = batch.ground_truth
        boxes |= dict(zip(truth.image_ids.tolist(), truth.boxes[:, 0].tolist(), strict=True))
        assert (truth.semantic[:, :6, :6] < 255).all() and (truth.semantic[:, 6:] == 255).all()
    scale = {100: (48 / 40, 48 / 32), 101: (48 / 32, 48 / 96), 102: (1, 1)}
    for key, (x, y) in scale.items():
        np.testing.assert_allclose(boxes[key], [4 * x, 6 * y, 20 * x, 26 * y], rtol=1e-6)


def test_nothing_lies_in_the_padding():
    (batch,) = dataset([(32, 40), (32, 50)], [ONE, []], preprocessing=PLAIN._replace(mean=(9,) * 3))
    images, truth = batch
    assert images.sizes.tolist() == [[32, 40], [32, 50]]
    assert images.pixels.shape == (2, 32, 64, 3)
    assert (images.pixels[0, :, :40] == 1 - 9).all()
    assert not images.pixels[0, :, 40:].any()
    assert truth.labels.tolist() == [[1], [-1]]
    assert truth.boxes.tolist() == [[[4, 6, 20, 26]], [[0, 0, 0, 0]]]
    assert not truth.masks[1].any()
    assert (truth.semantic[0, :, 5:] == 255).all()
    assert (truth.semantic[0, :, :5] < 255).all()


def test_objects_beyond_the_limit_are_cut_smallest_and_crowd_first():
    rows = [((0, 0, 5, 5), 0), ((0, 0, 9, 9), 1), ((0, 0, 30, 30), CROWD), ((0, 0, 8, 8), 0)]
    data = dataset([(32, 32)], [rows], max_objects=2)
    assert data.cut_objects == 2
    (batch,) = data
    assert batch.ground_truth.labels.tolist() == [[1, 0]]
    assert batch.ground_truth.boxes[0, :, 2].tolist() == [9, 8]
    (batch,) = dataset([(32, 32)], [rows], max_objects=6)
    assert batch.ground_truth.labels.tolist() == [[0, 1, CROWD, 0, -1, -1]]
    assert batch.ground_truth.masks[0].any(axis=(1, 2)).tolist() == [True] * 4 + [False] * 2


def test_default_number_of_rows():
    assert dataset([(32, 32)] * 2, [ONE * 3, ONE]).max_objects == 3
    assert dataset([(32, 32)], [[]]).max_objects == 1
    many = dataset([(32, 32)] * 2, [ONE * 130, ONE * 2])
    assert (many.max_objects, many.cut_objects) == (100, 30)


def paste(mask, frame, size):
    """The mask at each pixel's centre of a picture: bilinear on its frame, at least one half."""
    x0, y0, x1, y1 = frame
    lengths = (y0, y1, size[0], mask.shape[0]), (x0, x1, size[1], mask.shape[1])
    weights = []
    for low, high, pixels, cells in lengths:
        position = (np.arange(pixels) + 0.5 - low) / (high - low) * cells - 0.5
        weights.append(np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells))))
    return weights[0] @ mask @ weights[1].T >= 0.5


@pytest.mark.parametrize("training", [False, True])
def test_frames_pasted_back_are_the_whole_picture_bitmaps(training):
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([50 + 30 * np.cos(angles), 40 + 22 * np.sin(angles)], axis=1)
    source = ListSource([(100, 150)], [[((20, 18, 80, 62), 0), ((90, 5, 148.5, 95), 1)]])
    read = source.__getitem__

    class Circle(ListSource):
        def __getitem__(self, index):
            sample = read(index)
            return sample._replace(segmentations=(Segmentation((circle,)), sample.segmentations[1]))

    source = Circle(source.sizes, source.objects)
    options = {
        "training": training,
        "batch_size": 1,
        "preprocessing": Preprocessing(130, 200),
        "augmentation": Augmentation(flip=1.0),
    }
    (small,), (whole,) = Dataset(source, **options), Dataset(source, frame="image", **options)
    assert small.ground_truth.masks.shape == (1, 2, 112, 112)
    assert whole.ground_truth.masks.shape == (1, 2, 160, 224)
    assert whole.ground_truth.mask_frames[0].tolist() == [[0, 0, 224, 160]] * 2
    for row in range(2):
        bitmap = whole.ground_truth.masks[0, row].astype(bool)
        frame = small.ground_truth.mask_frames[0, row]
        pasted = paste(small.ground_truth.masks[0, row], frame, bitmap.shape)
        assert (pasted & bitmap).sum() / (pasted | bitmap).sum() > 0.98
        left, top, right, bottom = small.ground_truth.boxes[0, row]
        rows, columns = np.nonzero(bitmap)
        edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(edges, [left, top, right, bottom], atol=0.75)


def test_spec_describes_every_batch():
    for frame, training in (((28, 56), True), ("image", False)):
        data = dataset([(32, 40), (40, 32), (32, 32)], frame=frame, training=training)
        spec = data.spec()
        assert isinstance(spec, Batch)
        for batch in data:
            for expected, part in zip(spec, batch, strict=True):
                for (shape, kind), leaf in zip(expected, part, strict=True):
                    assert leaf.dtype == kind
                    assert len(shape) == leaf.ndim
                    assert all(a in (None, b) for a, b in zip(shape, leaf.shape, strict=True))


def test_more_rows_change_nothing_else():
    sample = ListSource([(32, 32)], [ONE])[0]
    few = collate([sample], (32, 32), PLAIN, Layout(1, 2)).ground_truth
    many = collate([sample], (32, 32), PLAIN, Layout(5, 2)).ground_truth
    for field in ("boxes", "labels", "masks", "mask_frames"):
        np.testing.assert_array_equal(getattr(few, field), getattr(many, field)[:, :1])
    np.testing.assert_array_equal(few.semantic, many.semantic)
    assert (many.mask_frames[0, 1:, 2:] > many.mask_frames[0, 1:, :2]).all()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        dataset([(32, 32)], batch_size=0)
    with pytest.raises(ValueError, match=r"frame must be \(height, width\).*got 'picture'"):
        dataset([(32, 32)], frame="picture")
    with pytest.raises(ValueError, match=r"frame must be \(height, width\).*got \(0, 28\)"):
        dataset([(32, 32)], frame=(0, 28))
    with pytest.raises(ValueError, match="repeat_threshold is for training alone"):
        dataset([(32, 32)], repeat_threshold=0.1)
    for threshold in (0, 1.5):
        with pytest.raises(ValueError, match=rf"repeat_threshold must be in .*got {threshold}"):
            dataset([(32, 32)], training=True, repeat_threshold=threshold)
    with pytest.raises(ValueError, match=r"augmentation.expand must be at least 1, got 0.5"):
        dataset([(32, 32)], augmentation=Augmentation(expand=0.5))
    square = PLAIN._replace(keep_ratio=False)
    with pytest.raises(ValueError, match=r"short_sides needs .*keep_ratio.* stay 64; got \(16,\)"):
        dataset([(32, 32)], preprocessing=square, augmentation=Augmentation(short_sides=(16,)))
    source = ListSource([(32, 32)], [ONE])
    source.num_semantic_classes = 256
    with pytest.raises(ValueError, match="list: 256 semantic classes, expected at most 255"):
        Dataset(source, training=True, batch_size=1)


def test_a_broken_picture_stops_the_epoch_with_its_message():
    class Broken(ListSource):
        def __getitem__(self, index):
            raise ValueError("seven.png: unreadable picture")

    data = Dataset(Broken([(32, 32)], [ONE]), training=True, batch_size=1)
    with pytest.raises(ValueError, match=r"seven\.png: unreadable picture"):
        next(iter(data))
