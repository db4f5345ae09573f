"""The SavedModel answers what the model answers, for any picture, and tells of those it cannot."""

import io
import json

import keras
import numpy as np
import pytest
import saved_model
from pictures import coarse, encoded
from PIL import Image

from pac_keras import MaskRCNN, predict, served
from pac_keras.data import Preprocessing
from pac_keras.data import image as library
from pac_keras.predict import upright_image
from pac_keras.structures import PADDING, Detections, Images

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a SavedModel is TensorFlow's format"
)

CATEGORIES = ((3, "cat"), (7, "dog"), (8, "Ente"), (90, "bär"), (91, "eel"))


def tiny_system(**attributes):
    keras.utils.set_random_seed(1)
    model = MaskRCNN(
        5,
        backbone="resnet18",
        base_channels=8,
        channels=8,
        fc_channels=16,
        frozen_stages=0,
        norm="batch",
        pre_nms=(50, 50),
        max_proposals=(40, 30),
        max_detections=10,
    )
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


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
def signatures(exported):
    """The endpoints of the SavedModel, loaded."""
    import tensorflow as tf

    return tf.saved_model.load(str(exported[1])).signatures


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Paths: PNG, JPEG, a photo that lies on its side, two kinds that the graph cannot read."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "a.png").write_bytes(encoded(coarse(50, 90), "PNG"))
    (folder / "b.jpg").write_bytes(encoded(coarse(131, 70, seed=1), "JPEG"))
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "c.jpg").write_bytes(encoded(coarse(40, 64, seed=2), "JPEG", exif=exif))
    (folder / "d.tif").write_bytes(encoded(coarse(64, 64, seed=3), "TIFF"))
    (folder / "e.bmp").write_bytes(encoded(coarse(64, 64, seed=4), "BMP", "P"))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def fresh(exported, files):
    """What a fresh process answers for the pictures."""
    images = [upright_image(file) for file in files]
    sent = [saved_model.encoded(file, image) for file, image in zip(files, images, strict=True)]
    return saved_model.answers_of_fresh_process(exported[1], sent, images)


def test_a_fresh_process_answers_as_the_model_and_the_report_says_so(
    exported, files, fresh, monkeypatch
):
    monkeypatch.setattr(saved_model, "answers_of_fresh_process", lambda *_: fresh)
    report = saved_model.check(*exported, files)
    assert report["problems"] == [] and report["unmatched"] == 0
    assert (report["pictures"], report["objects"]) == (5, 100)  # of both endpoints
    assert report["fewest_objects_of_a_picture"] == 10 and report["latency_ms"] > 0
    assert report["largest_box_difference_px"] < 1e-3 and report["smallest_mask_iou"] > 0.99
    assert report["largest_score_difference"] < 1e-5
    assert report["operators"]["Conv2D"] > 20 and report["operators"]["DecodeJpeg"] >= 1
    written = exported[1].parent / "out.parity.json"
    assert json.loads(written.read_text(encoding="utf-8")) == report


def test_the_check_notices_another_model(exported, files, fresh, monkeypatch):
    monkeypatch.setattr(saved_model, "answers_of_fresh_process", lambda *_: fresh)
    kernel = exported[0].stage.head.weights[0]
    before = kernel.numpy()
    kernel.assign(before * 3.0)
    try:
        assert saved_model.check(*exported, files)["problems"]
    finally:
        kernel.assign(before)


def answers(signatures, endpoint, **inputs):
    """{output: array} of an endpoint."""
    import tensorflow as tf

    inputs = {name: tf.constant(value) for name, value in inputs.items()}
    return {name: value.numpy() for name, value in signatures[endpoint](**inputs).items()}


def test_a_batch_of_files_is_answered_as_predict_does_and_a_broken_one_alone_fails(
    exported, signatures
):
    whole = [coarse(50, 90), coarse(131, 70, seed=1)]
    sent = [encoded(image, "PNG") for image in whole]
    broken = [b"", b"no picture", encoded(coarse(64, 64), "JPEG")[:-200], sent[0][:-60]]
    got = answers(signatures, "serving_default", encoded=[sent[0], *broken, sent[1]])
    for row in range(1, 5):
        assert got["errors"][row].decode().startswith("not a JPEG, PNG")
        assert not got["valid"][row].any() and (got["labels"][row] == PADDING).all()
        assert not got["masks"][row].any() and (got["sizes"][row] == 0).all()
        with pytest.raises(ValueError, match="picture"):
            library.read_image(broken[row - 1])
    for row, image in ((0, whole[0]), (5, whole[1])):
        expected = predict(exported[0], image, score_threshold=0.0)
        height, width = image.shape[:2]
        assert (len(expected.labels), got["errors"][row]) == (10, b"")
        assert 0.02 < expected.masks.mean() < 0.95
        assert tuple(got["sizes"][row]) == (height, width) and got["valid"][row].all()
        np.testing.assert_array_equal(got["labels"][row], expected.labels)
        np.testing.assert_allclose(got["boxes"][row], expected.boxes, atol=1e-3)
        np.testing.assert_allclose(got["scores"][row], expected.scores, atol=1e-5)
        assert tuple(name.decode() for name in got["names"][row]) == expected.names
        ids = dict(CATEGORIES)
        assert tuple(ids[number] for number in got["category_ids"][row]) == expected.names
        assert np.mean(got["masks"][row][:, :height, :width] != expected.masks) < 1e-3
        assert not got["masks"][row][:, height:].any() and got["masks"].shape[-2:] == (131, 90)


def test_masks_travel_as_png(signatures):
    sent = [encoded(coarse(50, 90), "PNG"), b"", encoded(coarse(131, 70, seed=1), "JPEG")]
    dense = answers(signatures, "serving_default", encoded=sent)
    got = answers(signatures, "png", encoded=sent)
    assert set(got) == set(dense) - {"masks"} | {"masks_bytes"}
    for row, (height, width) in ((0, (50, 90)), (2, (131, 70))):
        for one, mask in zip(got["masks_bytes"][row], dense["masks"][row], strict=True):
            drawn = np.asarray(Image.open(io.BytesIO(one)))
            np.testing.assert_array_equal(drawn, 255 * mask[:height, :width])
    assert (got["masks_bytes"][1] == b"").all()


def test_pictures_of_one_size_make_a_batch_of_any_size(exported, signatures):
    for count, size in ((1, (50, 90)), (3, (131, 70))):
        images = np.stack([coarse(*size, seed=seed) for seed in range(count)])
        got = answers(signatures, "images", images=images)
        assert got["masks"].shape == (count, 10, *size)
        for row in range(count):
            expected = predict(exported[0], images[row], score_threshold=0.0)
            np.testing.assert_allclose(got["boxes"][row], expected.boxes, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1)])
def test_thin_pictures_are_answered(size, exported, signatures):
    image = coarse(*size)
    expected = predict(exported[0], image, score_threshold=0.0)
    sent = {"serving_default": {"encoded": [encoded(image, "PNG")]}}
    sent["images"] = {"images": image[None]}
    for endpoint, inputs in sent.items():
        got = answers(signatures, endpoint, **inputs)
        assert np.isfinite(got["boxes"]).all() and tuple(got["sizes"][0]) == size
        np.testing.assert_allclose(got["boxes"][0][got["valid"][0]], expected.boxes, atol=1e-2)
        assert np.mean(got["masks"][0][got["valid"][0]] != expected.masks) < 1e-3


def test_raw_is_the_network(exported, signatures):
    pixels = np.random.default_rng(0).normal(size=(2, 64, 96, 3)).astype("float32")
    sizes = np.asarray([[64, 90], [50, 96]], "int32")
    got = answers(signatures, "raw", pixels=pixels, sizes=sizes)
    expected = exported[0](Images(pixels, sizes))
    assert set(got) == set(Detections._fields)
    for name, value in got.items():
        np.testing.assert_allclose(value, getattr(expected, name), atol=1e-3)


def test_the_folder_tells_what_an_application_needs(exported):
    known = json.loads((exported[1] / "metadata.json").read_text(encoding="utf-8"))
    assert known["categories"][3] == {"label": 3, "id": 90, "name": "bär"}
    assert known["resize"]["short_side"] == 64 and known["system"] == "MaskRCNN"
    assert known["input"] == {"channels": "RGB, uint8"}


def test_the_folder_takes_the_models_place(exported, files):
    loaded = served.load(exported[1])
    assert loaded.categories == CATEGORIES and loaded.preprocessing[:2] == (64, 96)
    for file in files:
        expected = predict(exported[0], file, score_threshold=0.0)
        got = served.predict_file(loaded, file, score_threshold=0.0)
        assert got.names == expected.names and got.size == expected.size
        np.testing.assert_allclose(got.boxes, expected.boxes, atol=1e-3)
        assert np.mean(got.masks != expected.masks) < 1e-3


def fields(message):
    """{field number: list of contents} of a protobuf message that holds bytes alone."""
    found, position = {}, 0

    def varint():
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position, value, shift = position + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    while position < len(message):
        tag = varint()
        assert tag & 7 == 2
        length = varint()
        found.setdefault(tag >> 3, []).append(message[position : position + length])
        position += length
    return found


def test_warm_up_requests_are_answered(exported, signatures):
    import tensorflow as tf
    from tensorflow.core.framework.tensor_pb2 import TensorProto
    from warmup import FILE

    names = []
    for record in tf.data.TFRecordDataset(str(exported[1] / FILE)):
        (log,) = fields(record.numpy())[6]
        (request,) = fields(log)[1]
        (spec,), (entry,) = fields(request)[1], fields(request)[2]
        (name,), (key,), (value,) = fields(spec)[3], fields(entry)[1], fields(entry)[2]
        tensor = tf.make_ndarray(TensorProto.FromString(value))
        got = answers(signatures, name.decode(), **{key.decode(): tensor})
        assert tuple(got["sizes"][0]) == (64, 64)
        names.append(name.decode())
    assert names == ["serving_default", "png", "images"]


def test_the_graph_resizes_as_the_library_does():
    from serving_graph import resize, target_size

    image = coarse(61, 83)
    for size in ((61, 83), (90, 40), (33, 200), (122, 166)):
        expected = library.resize_image(image, size)
        np.testing.assert_array_equal(resize(image[None], size)[0], expected)
    for keep_ratio in (True, False):
        preprocessing = Preprocessing(short_side=64, long_side=96, keep_ratio=keep_ratio)
        for size in ((61, 83), (1, 500), (480, 640), (333, 222), (128, 128)):
            got = tuple(target_size(np.asarray(size, "int32"), preprocessing).numpy())
            assert got == library.target_size(*size, preprocessing)


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

    model, image = Model(), coarse(90, 32)
    found, shown = tf.function(lambda one: (detect(model, one), model.images))(image[None])
    np.testing.assert_allclose(found.boxes, [[[0, 0, 16, 90]]], rtol=1e-6)
    np.testing.assert_allclose(found.mask_frames, [[[0, 0, 16, 90]]], rtol=1e-6)
    expected = library.prepare(image, Model.preprocessing)
    expected = library.pad_batch([expected], (64, 64))
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
    np.testing.assert_array_equal(got["names"], [[b"eel", b""], [b"cat", b"dog"]])
    np.testing.assert_array_equal(got["valid"], [[True, False], [True, True]])
    Model.categories = None
    got = answer(Model, found_in_two_pictures(), sizes)
    np.testing.assert_array_equal(got["category_ids"], [[4, -1], [0, 1]])


def test_a_model_without_preprocessing_is_refused(exported, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exported[0], "preprocessing", None)
    exported[0].save(tmp_path / "model.keras")
    model, out = str(tmp_path / "model.keras"), tmp_path / "out"
    assert saved_model.main([model, str(out)]) == 2
    assert "model.keras: knows no preprocessing" in capsys.readouterr().err
    assert not out.exists()


def test_wrong_wishes_get_one_line(files, tmp_path, capsys):
    assert saved_model.main([str(tmp_path / "none.keras"), str(tmp_path / "out")]) == 2
    assert "none.keras: no such model file" in capsys.readouterr().err
    assert saved_model.main(["m.keras", "out", "--pictures", str(files[0])]) == 2
    assert "--pictures: expected at least 3, got 1" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="full: exists and is not empty"):
        saved_model.write(None, tmp_path / "full")
