"""A .tflite file answers what its model answers, where neither TensorFlow nor Keras is."""

import json
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tflite
import tflite_file
import tflite_int8
from PIL import Image
from tflite_file import Operator

from pac_keras import PAC, MaskRCNN, RDSNet, predict
from pac_keras.data import Preprocessing
from pac_keras.data.image import resize_image
from pac_keras.served import fitted_size

sys.path.append(str(pathlib.Path(__file__).parents[1] / "systems"))
import tiny

pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow's converter writes the format"
)

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLE = ROOT / "export" / "examples" / "litert_predict.py"
PICTURES = sorted((ROOT / "tests" / "data" / "coco_eight" / "images").glob("*.jpg"))[:3]
CANVAS = (64, 96)
NAMES = ((3, "cat"), (7, "dog"), (8, "Ente"), (90, "bär"), (91, "eel"))


def small(system):
    """A small system with random weights that knows its preprocessing."""
    model = tiny.build(system, seed=1)
    model.preprocessing, model.categories = Preprocessing(64, 96), NAMES
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(model, its file, the report)."""
    folder = tmp_path_factory.mktemp("tflite")
    model = small(MaskRCNN)
    tflite.write(model, folder / "a.tflite", CANVAS)
    return model, folder / "a.tflite", tflite.check(model, folder / "a.tflite", PICTURES)


def test_a_process_without_tensorflow_answers_as_the_model(exported):
    report = exported[2]
    assert report["problems"] == [] and report["unmatched"] == 0
    assert report["objects"] == 30 and report["pictures"] == 3
    assert report["largest_score_difference"] < 1e-5
    assert report["smallest_mask_iou"] > 0.99
    assert report["latency_ms"] > 0 and report["file_bytes"] == exported[1].stat().st_size
    assert json.loads(pathlib.Path(f"{exported[1]}.parity.json").read_text())["objects"] == 30


def test_all_operators_are_built_in(exported):
    operators = exported[2]["operators"]
    assert operators["CONV_2D"] > 20 and operators["WHILE"] >= 1
    assert not any("CUSTOM" in name or "Flex" in name for name in operators)


def test_foreign_operators_are_refused(tmp_path, monkeypatch):
    import fixed_graph

    monkeypatch.setattr(fixed_graph, "fixed_function", lambda *_: None)
    monkeypatch.setattr(tflite, "convert", lambda *_: b"")
    monkeypatch.setattr(tflite_file, "counts", lambda _: {"ADD": 1, "CUSTOM FlexCropAndResize": 2})
    with pytest.raises(RuntimeError, match="not built in: CUSTOM FlexCropAndResize"):
        tflite.write(None, tmp_path / "a.tflite", CANVAS)
    assert not (tmp_path / "a.tflite").exists()


def test_the_file_tells_what_an_application_needs(exported):
    known = tflite_file.read_metadata(exported[1])
    assert known["input"] == {"height": 64, "width": 96, "channels": "RGB, uint8"}
    assert known["resize"]["short_side"] == 64 and known["resize"]["keep_ratio"] is True
    assert known["categories"][3] == {"label": 3, "id": 90, "name": "bär"}
    assert known["mask_threshold"] == exported[0].mask_threshold and known["system"] == "MaskRCNN"


def test_check_notices_another_model(exported, tmp_path):
    model, file = exported[0], tmp_path / "copy.tflite"
    shutil.copy(exported[1], file)
    kernel = model.rpn.weights[0]
    before = kernel.numpy()
    kernel.assign(before * 3.0)
    try:
        assert tflite.check(model, file, PICTURES)["problems"]
    finally:
        kernel.assign(before)


def test_the_example_runs_without_tensorflow(exported, tmp_path):
    """It finds what `predict` finds, and writes an overlay and full-size masks."""
    model, file, _ = exported
    blocked = "import sys, runpy; sys.modules.update(dict.fromkeys({}));".format(
        ("tensorflow", "keras", "pac_keras", "pycocotools", "matplotlib")
    )
    code = f"{blocked} sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    outputs = ["--overlay", "o.png", "--json", "o.json", "--score-threshold", "0"]
    command = [sys.executable, "-c", code, str(EXAMPLE), str(file), str(PICTURES[0]), *outputs]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("10 objects in")
    image = np.asarray(Image.open(PICTURES[0]).convert("RGB"))
    drawn = np.asarray(Image.open(tmp_path / "o.png"))
    assert drawn.shape == image.shape and (drawn != image).any()
    found = json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))
    expected = predict(model, PICTURES[0], score_threshold=0.0)
    assert [one["name"] for one in found] == list(expected.names)
    np.testing.assert_allclose([one["box"] for one in found], expected.boxes, atol=0.05)
    for one, mask in zip(found, expected.masks, strict=True):
        assert np.mean(decoded(one["segmentation"]) != mask) < 1e-3


def decoded(segmentation):
    """bool `[H, W]` of COCO's uncompressed run lengths."""
    counts = segmentation["counts"]
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(segmentation["size"], order="F")


def test_the_example_resizes_as_the_library(example):
    image = np.random.default_rng(0).integers(0, 256, (61, 83, 3)).astype("uint8")
    for size in ((61, 83), (90, 40), (33, 200)):
        np.testing.assert_array_equal(example.resize(image, size), resize_image(image, size))
    for keep_ratio in (True, False):
        preprocessing = Preprocessing(64, 96, keep_ratio=keep_ratio)
        for size in ((61, 83), (1, 500), (480, 640), (333, 222), (128, 128)):
            for canvas in (CANVAS, (96, 96), (512, 512)):
                got = example.fitted_size(*size, preprocessing._asdict(), canvas)
                assert got == fitted_size(*size, canvas, preprocessing)
                assert got[0] <= canvas[0] and got[1] <= canvas[1]


@pytest.fixture(scope="module")
def example():
    sys.path.insert(0, str(EXAMPLE.parent))
    import litert_predict

    return litert_predict


def test_a_file_without_metadata_is_named(example, tmp_path):
    (tmp_path / "plain.tflite").write_bytes(b"TFL3" * 10)
    with pytest.raises(ValueError, match=r"plain\.tflite: no metadata\.json in it"):
        example.read_metadata(tmp_path / "plain.tflite")


def test_wrong_wishes_get_an_error(tmp_path):
    model = small_stand_in()
    with pytest.raises(ValueError, match="width: expected a multiple of 32, received 100"):
        tflite.write(model, tmp_path / "a.tflite", (64, 100))
    with pytest.raises(ValueError, match=r"ends with \.tflite"):
        tflite.write(model, tmp_path / "a.onnx", CANVAS)
    with pytest.raises(ValueError, match="--representative FOLDER"):
        tflite.write(model, tmp_path / "a.tflite", CANVAS, "int8")
    (tmp_path / "a.tflite").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"a\.tflite: is there already"):
        tflite.write(model, tmp_path / "a.tflite", CANVAS)
    assert (tmp_path / "a.tflite").read_bytes() == b"mine"


def small_stand_in():
    """What is looked at before a model is traced."""

    class Model:
        preprocessing = Preprocessing(64, 96)

    return Model()


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(ModuleNotFoundError, match="pip install ai-edge-litert"):
        tflite.write(small_stand_in(), tmp_path / "a.tflite", CANVAS)


def test_users_errors_get_one_line(tmp_path, capsys):
    arguments = [str(tmp_path / "none.keras"), str(tmp_path / "a.tflite")]
    assert tflite.main(arguments) == 2
    assert "none.keras: no such model file" in capsys.readouterr().err
    assert tflite.main([*arguments, "--pictures", str(PICTURES[0])]) == 2
    assert "--pictures: expected at least 3, got 1" in capsys.readouterr().err


def test_int8_ends_before_predictions():
    """A convolution in a layer becomes int8 if another one follows."""

    def step(kind, inputs, output, name, shape=(1, 8, 8, 4)):
        return Operator(kind, inputs, (output,), (name,), shape, 1, False)

    graph = [
        step("CONV_2D", (0,), 1, "net/conv1"),
        step("ADD", (1, 0), 2, "net/add"),
        step("CONV_2D", (2,), 3, "net/conv2"),
        step("MEAN", (3,), 4, "net/norm"),
        step("CONV_2D", (4,), 5, "net/conv3"),
        step("MUL", (5,), 6, "mul_3"),
        step("CONV_2D", (6,), 7, "head/conv"),
        step("ADD", (7,), 8, "add_7", (1, 10)),
    ]
    # conv1: straight on; conv2: its layer goes on behind the norm; conv3, head: predictions.
    assert tflite_int8.float_names(graph)[::-1] == [
        *("net/norm", "net/conv3", "mul_3", "head/conv", "add_7"),
    ]


def test_half_precision_leaves_small_weights_as_they_are(exported, tmp_path):
    from tflite_float16 import SHARE, halve

    whole = exported[1].read_bytes()
    (tmp_path / "a.tflite").write_bytes(halve(whole))
    size = (tmp_path / "a.tflite").stat().st_size
    assert size < (1 - SHARE / 2 + 0.1) * len(whole)
    operators = tflite_file.counts((tmp_path / "a.tflite").read_bytes())
    assert 3 < operators.pop("DEQUANTIZE") < operators["CONV_2D"]  # one for each large weight
    assert operators == tflite_file.counts(whole)
    inputs = {"image": np.full((1, *CANVAS, 3), 90, "uint8"), "size": np.asarray([CANVAS], "int32")}
    found = [run(file, inputs) for file in (exported[1], tmp_path / "a.tflite")]
    np.testing.assert_allclose(found[1]["scores"], found[0]["scores"], atol=1e-3)
    assert (found[1]["scores"] != found[0]["scores"]).any()


def run(file, inputs):
    """{output: array} of a .tflite file."""
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(file)).get_signature_runner()(**inputs)


@pytest.mark.slow
@pytest.mark.parametrize("system", tiny.SYSTEMS, ids=lambda system: system.__name__)
def test_every_system_answers_as_the_model(system, tmp_path):
    model = small(system)
    tflite.write(model, tmp_path / "a.tflite", CANVAS)
    report = tflite.check(model, tmp_path / "a.tflite", PICTURES)
    assert report["problems"] == [] and report["unmatched"] == 0 and report["objects"] == 30


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "dynamic", "int8"])
@pytest.mark.parametrize("system", [MaskRCNN, PAC, RDSNet], ids=lambda system: system.__name__)
def test_smaller_files_run(system, precision, tmp_path):
    """What random weights answer means nothing at lower precision; that the files run does."""
    model = small(system)
    tflite.write(model, tmp_path / "whole.tflite", CANVAS)
    tflite.write(model, tmp_path / "a.tflite", CANVAS, precision, PICTURES)
    whole = (tmp_path / "whole.tflite").stat().st_size
    report = tflite.check(model, tmp_path / "a.tflite", PICTURES)
    assert report["file_bytes"] < {"float16": 0.65, "dynamic": 0.7, "int8": 0.8}[precision] * whole
    assert not any("CUSTOM" in name for name in report["operators"])
    assert report["smallest_box_iou"] > 0.5 and report["latency_ms"] > 0
    if precision == "int8":
        assert report["int8_share_of_convolution_macs"] >= 0.6
        assert report["float_convolutions"]
