"""A broken picture, a loss that is no number: the run says which picture, or goes on without it."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

from pac_keras import MaskRCNN
from pac_keras.data import Augmentation, Preprocessing, bad_images, coco
from pac_keras.data.bad_images import BadImageError
from pac_keras.training.callbacks import StopOnNaN

SIZES = {"backbone": "resnet18", "base_channels": 16, "frozen_stages": 0, "norm": "batch"}
SIZES |= {"channels": 8, "fc_channels": 16, "pre_nms": (20, 20), "max_proposals": (20, 20)}
SIZES |= {"rpn_samples": 16, "roi_samples": 8}


@pytest.fixture
def folder(tmp_path):
    """Six pictures, 3 landscape and 3 portrait, with an object each, and train.json."""
    images, annotations = [], []
    for number in range(1, 7):
        height, width = (48, 64) if number % 2 else (64, 48)
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), "uint8")
        Image.fromarray(noise).save(tmp_path / f"{number}.jpg")
        fields = {"height": height, "width": width, "file_name": f"{number}.jpg"}
        images.append({"id": 100 + number} | fields)
        shape = [8, 8, 40, 8, 40, 40, 8, 40]
        one = {"id": number, "image_id": 100 + number, "category_id": 1, "iscrowd": 0}
        annotations.append(one | {"bbox": [8, 8, 32, 32], "segmentation": [shape]})
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "square"}]
    (tmp_path / "train.json").write_text(json.dumps(content))
    return tmp_path


def data(folder, **options):
    options = {"training": True, "batch_size": 3, "preprocessing": Preprocessing(64, 96)} | options
    options |= {"augmentation": Augmentation(flip=0.0)}
    return coco(folder / "train.json", folder, **options)


def cut(path):
    path.write_bytes(path.read_bytes()[:2000])


@pytest.fixture(scope="module")
def traced():
    """A model for all tests: to trace its step takes longer than all of them."""
    keras.utils.set_random_seed(0)
    model = MaskRCNN(1, **SIZES)
    model.compile(keras.optimizers.SGD(1e-4))
    return model, model.get_weights()


@pytest.fixture
def fit(traced):
    """A function: an epoch of a Dataset, from the same weights each time."""
    model, weights = traced
    model.set_weights(weights)
    return lambda data: model.fit(data, verbose=0, callbacks=[StopOnNaN(data)])


def test_a_cut_off_picture_stops_the_run_with_its_name(folder, fit):
    cut(folder / "3.jpg")
    with pytest.raises(BadImageError, match=r"3\.jpg: unreadable picture: .*truncated"):
        fit(data(folder))


def test_a_cut_off_picture_is_passed_over(folder, fit):
    cut(folder / "3.jpg")
    dataset = data(folder, on_bad_image="skip")
    with pytest.warns(UserWarning, match=r"passed over, 1 so far: .*3\.jpg: unreadable"):
        batches = list(dataset.batches(0, 2))
    ids = [sorted(batch.ground_truth.image_ids.tolist()) for batch in batches]
    landscape = [set(row) for row in ids if row[0] % 2]
    assert landscape == [{101, 105}] * 2 and len(ids) == 4  # one of its kind stands in
    assert [row for row in ids if row[0] % 2 == 0] == [[102, 104, 106]] * 2
    assert list(dataset.reader.bad) == [2]
    assert len(fit(dataset).history["loss"]) == 1


def test_too_many_bad_pictures_stop_the_run(folder, monkeypatch):
    for number in (1, 4):
        cut(folder / f"{number}.jpg")
    with (
        pytest.warns(UserWarning, match="passed over"),
        pytest.raises(BadImageError, match=r"2 of 6 pictures .* at most 1: .*jpg: .*jpg: unread"),
    ):
        list(data(folder, on_bad_image="skip").batches(0, 1))
    dataset = data(folder, on_bad_image="skip", batch_size=1)
    monkeypatch.setattr(bad_images, "MOST_BAD", 1.0)
    for number in (3, 5):
        (folder / f"{number}.jpg").unlink()
    with (
        pytest.warns(UserWarning, match="passed over"),
        pytest.raises(BadImageError, match=r"no picture can be read: .*[35]\.jpg"),
    ):
        list(dataset.batches(0, 1))


def test_another_choice_is_refused(folder):
    with pytest.raises(ValueError, match="`on_bad_image` must be one of"):
        data(folder, on_bad_image="ignore")


def test_a_box_that_is_no_number_is_found_by_its_picture(folder, fit):
    dataset = data(folder)
    read, planted = dataset.source.__class__.__getitem__, 104

    class Planted(dataset.source.__class__):
        def __getitem__(self, index):
            sample = read(self, index)
            if sample.image_id == planted:
                return sample._replace(boxes=np.full_like(sample.boxes, np.nan))
            return sample

    dataset.source.__class__ = Planted
    with pytest.raises(FloatingPointError) as stopped:
        fit(dataset)
    message = str(stopped.value)
    assert "the loss is not finite (" in message and "loss nan" in message
    assert message.startswith("epoch 1, step ")
    ids = message.partition("image ids [")[2].partition("]")[0]
    assert sorted(map(int, ids.split(", "))) == [102, 104, 106]
