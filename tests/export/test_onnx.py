"""An .onnx file answers what the model answers, and can take its place in the command line."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import saved_model
from pictures import coarse, encoded, noise

from pac_keras import MaskRCNN, predict, served
from pac_keras import __main__ as cli
from pac_keras.data import Preprocessing

PACKAGES = ("tf2onnx", "onnx", "onnxruntime")
# Not `importorskip`: here `import onnx` is the script, whose folder leads the path.
pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="tf2onnx reads TensorFlow's graphs"
    ),
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, PACKAGES)), reason=f"needs {', '.join(PACKAGES)}"
    ),
]

ROOT = pathlib.Path(__file__).parents[2]
CANVAS = (64, 96)
CATEGORIES = ((3, "cat"), (7, "dog"), (8, "Ente"), (90, "bär"), (91, "eel"))
SIZES = {"backbone": "resnet18", "base_channels": 8, "channels": 8, "fc_channels": 16}
SIZES |= {"frozen_stages": 0, "norm": "batch", "pre_nms": (50, 50), "max_proposals": (40, 30)}


def module(path, name):
    """The module in a file of this project, under a name that no package has."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


script = module("export/onnx.py", "onnx_script")
tiny = module("tests/systems/tiny.py", "tiny_systems")


def ready(model):
    """`model` as if it were trained."""
    model.preprocessing, model.categories = Preprocessing(64, 96), CATEGORIES
    return model


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Paths of three pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, size in enumerate(((50, 90), (131, 70), (64, 64))):
        (folder / f"{index}.png").write_bytes(encoded(noise(*size), "PNG"))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(model, its .onnx file)."""
    keras.utils.set_random_seed(1)
    model = ready(MaskRCNN(5, **SIZES, max_detections=10))
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    script.write(model, path, CANVAS)
    return model, path


def test_a_fresh_process_answers_as_the_model_and_the_report_says_so(exported, pictures):
    model, path = exported
    assert script.check(model, path, pictures)["problems"] == []
    report = json.loads(pathlib.Path(f"{path}.parity.json").read_text())
    assert (report["pictures"], report["objects"], report["unmatched"]) == (3, 30, 0)
    assert report["largest_box_difference_px"] < 1e-2
    assert report["largest_score_difference"] < 1e-5 and report["smallest_mask_iou"] > 0.99
    assert report["operators"]["Conv"] > 20 and report["operators"]["Loop"] > 0  # suppression
    assert report["file_bytes"] == path.stat().st_size and report["latency_ms"] > 0
    assert (report["size"], report["problems"]) == (list(CANVAS), [])


def loops(nodes):
    """The Loop nodes among `nodes` and in their bodies."""
    for node in nodes:
        if node.op_type == "Loop":
            yield node
        for attribute in node.attribute:
            yield from loops(attribute.g.node)


def test_no_state_of_a_loop_stays_the_same(exported):
    onnx, _ = script._packages()  # OpenVINO 2026.4 refuses such a state
    network = onnx.load(str(exported[1]))
    onnx.checker.check_model(network, full_check=True)
    found = list(loops(network.graph.node))
    assert found
    for loop in found:
        (body,) = (one.g for one in loop.attribute if one.name == "body")
        before, after = body.input[2:], body.output[1 : len(loop.input) - 1]
        assert len(before) == len(after) > 0
        assert all(one.name != other.name for one, other in zip(before, after, strict=True))


@pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="needs openvino")
def test_the_openvino_example_finds_what_onnx_runtime_does(exported, tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(encoded(coarse(128, 100), "PNG"))  # resized to half: no grey level is rounded
    command = [sys.executable, ROOT / "export/examples/openvino_predict.py", exported[1], file, "0"]
    printed = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    expected = served.predict_file(served.load(exported[1]), file, score_threshold=0.0)
    found = [line.split("; ") for line in printed.stdout.splitlines()]
    assert [name for name, *_ in found] == list(expected.names) and len(found) == 10
    numbers = [[float(x) for x in " ".join(rest).split()] for _, *rest in found]
    scores, boxes, covered = np.split(np.asarray(numbers), [1, 5], axis=1)
    np.testing.assert_allclose(scores[:, 0], expected.scores, atol=1e-3)
    np.testing.assert_allclose(boxes, expected.boxes, atol=0.06)
    np.testing.assert_allclose(covered[:, 0], expected.masks.sum((1, 2)), atol=2)


def test_the_check_notices_another_model(exported, pictures):
    model, path = exported
    kernel = next(one for one in model.trainable_weights if one.path.endswith("kernel"))
    before = kernel.numpy()
    kernel.assign(before * 3.0)
    try:
        found = script.check(model, path, pictures)["problems"]
    finally:
        kernel.assign(before)
    assert "without counterpart" in found[0]


def test_the_file_takes_the_models_place(exported, tmp_path):
    model, path = exported
    loaded = served.load(path)
    assert (loaded.categories, loaded.num_classes) == (CATEGORIES, 5)
    assert loaded.preprocessing[:2] == (64, 96) and loaded.mask_threshold == 0.5
    for size in ((64, 96), (128, 192), (40, 60)):  # predict's canvas is the file's
        (tmp_path / "a.png").write_bytes(encoded(noise(*size), "PNG"))
        expected = predict(model, tmp_path / "a.png", score_threshold=0.0)
        got = served.predict_file(loaded, tmp_path / "a.png", score_threshold=0.0)
        assert len(got.names) == 10 and got.names == expected.names and got.size == size
        np.testing.assert_allclose(got.boxes, expected.boxes, atol=1e-3)
        np.testing.assert_allclose(got.scores, expected.scores, atol=1e-5)
        assert np.mean(got.masks != expected.masks) < 1e-3


def test_wrong_requests_are_refused(exported, pictures, tmp_path, capsys):
    model, path = exported
    with pytest.raises(FileExistsError, match="is there already"):
        script.write(model, path, CANVAS)
    with pytest.raises(ValueError, match="expected a name that ends"):
        script.write(model, tmp_path / "model.bin", CANVAS)
    with pytest.raises(ValueError, match="multiple of 32"):
        script.write(model, tmp_path / "model.onnx", (64, 100))
    arguments = ["none.keras", "out.onnx", "--pictures", str(pictures[0])]
    assert script.main(arguments) == 2
    assert "expected at least 3, got 1" in capsys.readouterr().err
    assert script.main(["none.keras", "out.onnx"]) == 2
    assert "none.keras: no such model file" in capsys.readouterr().err


def test_a_file_of_somebody_else_is_refused(exported, tmp_path):
    onnx, _ = script._packages()
    network = onnx.load(str(exported[1]))
    del network.metadata_props[:]
    onnx.save(network, str(tmp_path / "foreign.onnx"))
    with pytest.raises(ValueError, match="does not tell its categories, input"):
        served.load(tmp_path / "foreign.onnx")


def answered_data(model, folder):
    """Writes a COCO folder whose objects are every second one that `model` finds: AP is neither 0
    nor 1, and each object that is found elsewhere, or in another order, changes it."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number, size in enumerate(((64, 96), (128, 192), (40, 60), (32, 48)), start=1):
        (folder / "images" / f"{number}.png").write_bytes(encoded(noise(*size), "PNG"))
        found = predict(model, folder / "images" / f"{number}.png", score_threshold=0.0)
        fields = dict(zip(("height", "width"), size, strict=True))
        images.append({"id": number, "file_name": f"{number}.png", **fields})
        for row in range(0, len(found.names), 2):
            x0, y0, x1, y1 = map(float, found.boxes[row])
            one = {"id": len(annotations) + 1, "image_id": number, "iscrowd": 0}
            one |= {"category_id": CATEGORIES[found.labels[row]][0]}
            one |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": found.rle()[row]}
            annotations.append(one | {"area": float(found.mask(row).sum())})
    categories = [{"id": number, "name": name} for number, name in CATEGORIES]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "val.json").write_text(json.dumps(content))
    return folder


def average_precisions(file, data, out):
    """(box AP, mask AP) in percent that `evaluate` writes."""
    assert cli.main(["evaluate", str(file), "--data", str(data), "--out", str(out)]) == 0
    metrics = json.loads(out.read_text())
    return np.asarray([100 * metrics[kind]["AP"] for kind in ("box", "mask")])


@pytest.mark.slow
def test_all_kinds_of_file_have_the_same_average_precision(exported, tmp_path):
    model, onnx_file = exported
    files = [tmp_path / "model.keras", tmp_path / "saved", onnx_file, tmp_path / "model.tflite"]
    model.save(files[0])
    saved_model.write(model, files[1])
    pytest.importorskip("ai_edge_litert")
    module("export/tflite.py", "tflite_script").write(model, files[3], CANVAS)
    data = answered_data(model, tmp_path / "data")
    found = [average_precisions(file, data, tmp_path / "metrics.json") for file in files]
    assert (found[0] > 5).all() and (found[0] < 95).all()
    np.testing.assert_allclose(found, [found[0]] * 4, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("system", tiny.SYSTEMS, ids=lambda system: system.__name__)
def test_every_system_converts(system, pictures, tmp_path):
    model = ready(tiny.build(system))
    script.write(model, tmp_path / "model.onnx", CANVAS)
    report = script.check(model, tmp_path / "model.onnx", pictures)
    assert report["problems"] == [] and report["objects"] == 30
    assert report["largest_score_difference"] < 1e-5
