"""The SavedModel answers what the model answers; the comparison sees it when it does not."""

import io
import json

import keras
import numpy as np
import pytest
import saved_model
from comparison import Answer, Difference, compare, total
from PIL import Image

from pac_keras import PAC, predict
from pac_keras.data import Preprocessing
from pac_keras.data import image as pictures
from pac_keras.structures import PADDING, Detections

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a SavedModel is TensorFlow's format"
)

CATEGORIES = ((3, "cat"), (7, "dog"), (8, "Ente"), (90, "bär"), (91, "eel"))


def tiny_system(**attributes):
    keras.utils.set_random_seed(1)
    model = PAC(
        5,
        backbone="resnet18",
        base_channels=8,
        channels=8,
        fc_channels=16,
        frozen_stages=0,
        norm="batch",
        num_semantic_classes=6,
        pre_nms=(50, 50),
        max_proposals=(40, 30),
        max_detections=10,
    )
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def encoded(image, kind):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def noise(height, width, seed=0):
    """Coarse coloured noise, so that JPEG keeps it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    return np.kron(coarse, np.ones((8, 8, 1)))[:height, :width].astype("uint8")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(model, folder of its SavedModel)."""
    folder = tmp_path_factory.mktemp("export")
    model = tiny_system(
        preprocessing=Preprocessing(short_side=64, long_side=96), categories=CATEGORIES
    )
    saved_model.write(model, folder / "out")
    return model, folder / "out"


@pytest.fixture(scope="module")
def answered(exported):
    """(encoded pictures of three sizes, their pixels, the answers of a fresh process)."""
    images = [noise(50, 90), noise(131, 70, seed=1), noise(64, 64, seed=2)]
    files = [encoded(image, kind) for image, kind in zip(images, ("PNG", "JPEG", "PNG"), strict=1)]
    images = [pictures.read_image(file) for file in files]
    return files, images, saved_model.answers_of_fresh_process(exported[1], files, images)


@pytest.mark.parametrize("endpoint", ["serving_default", "images"])
def test_a_fresh_process_answers_as_predict_does(endpoint, exported, answered):
    model, (_, images, answers) = exported[0], answered
    for index, image in enumerate(images):
        expected = predict(model, image, score_threshold=0.0)
        assert len(expected.labels) == 10
        assert 0.05 < expected.masks.mean() < 0.95
        got = {
            name: answers[f"{endpoint}/{index}/{name}"]
            for name in ("boxes", "labels", "category_ids", "scores", "masks", "size")
        }
        assert tuple(got["size"]) == image.shape[:2]
        np.testing.assert_array_equal(got["labels"], expected.labels)
        np.testing.assert_allclose(got["boxes"], expected.boxes, atol=1e-3)
        np.testing.assert_allclose(got["scores"], expected.scores, atol=1e-5)
        names = dict(CATEGORIES)
        assert tuple(names[number] for number in got["category_ids"]) == expected.names
        masks = np.unpackbits(got["masks"], axis=-1, count=image.shape[1])
        assert np.mean(masks != expected.masks) < 1e-3
        assert answers[f"{endpoint}/{index}/outside"] == 0


def test_check_passes_and_prints_the_figures(exported, answered, capsys, monkeypatch):
    files, _, answers = answered
    monkeypatch.setattr(saved_model, "answers_of_fresh_process", lambda *_: answers)
    assert saved_model.check(*exported, files) == []
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["serving_default", "images"]
    assert all("3 pictures, 30 objects kept, 0 unmatched" in line for line in lines)


def test_check_notices_another_model(exported, answered, monkeypatch):
    model, (files, _, answers) = exported[0], answered
    monkeypatch.setattr(saved_model, "answers_of_fresh_process", lambda *_: answers)
    kernel = model.stages[2].head.weights[0]
    before = kernel.numpy()
    kernel.assign(before * 3.0)
    problems = saved_model.check(*exported, files)
    kernel.assign(before)
    assert problems


def test_categories_lie_beside_the_model(exported):
    categories = json.loads((exported[1] / "categories.json").read_text(encoding="utf-8"))
    assert categories[0] == {"label": 0, "id": 3, "name": "cat"}
    assert [(one["id"], one["name"]) for one in categories] == list(CATEGORIES)


def test_the_graph_decodes_and_resizes_as_the_library_does():
    from serving_graph import decode, resize, target_size

    image = noise(61, 83)
    for kind in ("JPEG", "PNG"):
        file = encoded(image, kind)
        np.testing.assert_array_equal(decode(file), pictures.read_image(file))
    for size in ((61, 83), (90, 40), (33, 200), (122, 166)):
        expected = pictures.resize_image(image, size)
        np.testing.assert_array_equal(resize(image[None], size)[0], expected)
    for keep_ratio in (True, False):
        preprocessing = Preprocessing(short_side=64, long_side=96, keep_ratio=keep_ratio)
        for size in ((61, 83), (1, 500), (480, 640), (333, 222), (128, 128)):
            got = tuple(target_size(np.asarray(size, "int32"), preprocessing).numpy())
            assert got == pictures.target_size(*size, preprocessing)


def test_the_graph_brings_each_axis_back_by_its_own_scale():
    import tensorflow as tf
    from serving_graph import detect

    class Model:  # finds the left half, and remembers what it was shown
        preprocessing = Preprocessing(short_side=50, long_side=50, keep_ratio=False)

        def __call__(self, images):
            self.images = images
            height, width = tf.unstack(tf.cast(images.sizes[0], tf.float32))
            found = tf.stack([0.0, 0.0, width / 2, height])[None, None]
            rest = tf.zeros([1, 1])
            return Detections(found, rest, rest, rest, tf.ones([1, 1, 2, 2]), found)

    model, image = Model(), noise(90, 32)
    found, shown = tf.function(lambda one: (detect(model, one), model.images))(image[None])
    np.testing.assert_allclose(found.boxes, [[[0, 0, 16, 90]]], rtol=1e-6)
    np.testing.assert_allclose(found.mask_frames, [[[0, 0, 16, 90]]], rtol=1e-6)
    expected = pictures.prepare(image, Model.preprocessing)
    expected = pictures.pad_batch([expected], (64, 64))
    np.testing.assert_array_equal(shown.sizes, expected.sizes)
    np.testing.assert_allclose(shown.pixels, expected.pixels, atol=1e-5)


def found_in_two_pictures():
    frames = np.asarray([[[1, 1, 3, 4], [0, 0, 0, 0]], [[0, 0, 4, 6], [2, 2, 4, 6]]], "float32")
    return Detections(
        boxes=frames,
        labels=np.asarray([[4, PADDING], [0, 1]], "int32"),
        scores=np.asarray([[0.9, 0], [0.8, 0.7]], "float32"),
        box_scores=np.asarray([[0.5, 0], [0.4, 0.3]], "float32"),
        masks=np.ones((2, 2, 2, 2), "float32"),
        mask_frames=frames,
    )


def test_masks_are_drawn_within_their_own_picture():
    from serving_graph import full_size_masks

    sizes = np.asarray([[5, 4], [6, 3]], "int32")
    masks = full_size_masks(found_in_two_pictures(), sizes, 0.45).numpy()
    assert masks.shape == (2, 2, 6, 4) and masks.dtype == np.uint8
    expected = np.zeros((6, 4), "uint8")
    expected[1:4, 1:3] = 1
    np.testing.assert_array_equal(masks[0, 0], expected)
    assert not masks[0, 1].any()  # padding
    assert masks[1, 0, :, :3].all() and not masks[1, 0, :, 3:].any()


def test_an_answer_names_categories_and_padding():
    from serving_graph import answer

    class Model:
        num_classes, categories, mask_threshold = 5, CATEGORIES, 0.5

    sizes = np.asarray([[6, 4], [6, 4]], "int32")
    got = answer(Model, found_in_two_pictures(), sizes)
    np.testing.assert_array_equal(got["category_ids"], [[91, -1], [3, 7]])
    np.testing.assert_array_equal(got["valid"], [[True, False], [True, True]])
    Model.categories = None
    got = answer(Model, found_in_two_pictures(), sizes)
    np.testing.assert_array_equal(got["category_ids"], [[4, -1], [0, 1]])


def objects(count=12):
    """`Answer` of `count` squares on a diagonal."""
    corner = np.arange(count, dtype="float32")[:, None] * 10
    masks = np.zeros((count, 130, 130), bool)
    for row in range(count):
        masks[row, row * 10 : row * 10 + 8, row * 10 : row * 10 + 8] = True
    return Answer(
        boxes=np.concatenate([corner, corner, corner + 8, corner + 8], axis=1),
        labels=np.arange(count) % 3,
        category_ids=np.arange(count) % 3 + 1,
        scores=np.linspace(0.9, 0.1, count),
        box_scores=np.linspace(0.8, 0.2, count),
        masks=masks,
    )


def test_equal_answers_do_not_differ_in_any_order():
    turned = Answer(*(field[::-1] for field in objects()))
    assert compare(objects(), turned) == Difference(12, 0, 0.0, 0.0, 1.0)
    assert compare(objects(), turned).problems() == []


@pytest.mark.parametrize(
    ("field", "change", "word"),
    [
        ("boxes", lambda boxes: boxes + 0.6, "counterpart"),
        ("labels", lambda labels: (labels + 1) % 3, "counterpart"),
        ("category_ids", lambda ids: ids + 1, "counterpart"),
        ("scores", lambda scores: scores * 0.98, "counterpart"),
        ("box_scores", lambda scores: scores + 0.01, "counterpart"),
        ("masks", lambda masks: np.roll(masks, 1, axis=1), "mask IoU"),
    ],
)
def test_each_kind_of_difference_is_a_problem(field, change, word):
    wrong = objects()._replace(**{field: change(getattr(objects(), field))})
    (problem,) = compare(objects(), wrong).problems()
    assert word in problem


def test_missing_objects_and_empty_answers_are_problems():
    fewer = Answer(*(field[:11] for field in objects()))
    assert compare(objects(), fewer).unmatched == 1
    assert "1 objects of either side without counterpart" in compare(objects(), fewer).problems()[0]
    empty = Answer(*(field[:0] for field in objects()))
    assert "fewer than 10" in compare(empty, empty).problems()[0]
    both = total([compare(empty, empty), compare(objects(), fewer)])
    assert (both.kept, both.unmatched) == (12, 1)


def test_one_object_in_a_hundred_may_have_been_decided_otherwise():
    hundred = Answer(*(np.concatenate([field] * 9)[:100] for field in objects()))
    boxes = hundred.boxes + 1000 * (np.arange(100) // 12)[:, None]
    hundred = hundred._replace(boxes=boxes)
    other = boxes.copy()
    other[7] += 2  # another of two boxes that overlap as much as the suppression allows
    found = compare(hundred, hundred._replace(boxes=other))
    assert (found.kept, found.unmatched, found.boxes) == (100, 2, 0.0)
    assert found.problems() == []
    other[8:10] += 2
    assert compare(hundred, hundred._replace(boxes=other)).problems()


def test_a_model_without_preprocessing_is_refused(exported, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exported[0], "preprocessing", None)
    exported[0].save(tmp_path / "model.keras")
    model, out = str(tmp_path / "model.keras"), tmp_path / "out"
    assert saved_model.main([model, str(out)]) == 2
    assert "model.keras: knows no preprocessing" in capsys.readouterr().err
    assert not out.exists()


def test_wrong_files_get_one_line(tmp_path, capsys):
    assert saved_model.main([str(tmp_path / "none.keras"), str(tmp_path / "out")]) == 2
    assert "none.keras: no such model file" in capsys.readouterr().err
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    arguments = ["m.keras", "out", "--pictures", str(tmp_path / "a.tif")]
    assert saved_model.main(arguments) == 2
    assert "a.tif: neither JPEG nor PNG" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="full: exists and is not empty"):
        saved_model.write(None, tmp_path / "full")
