"""The command line, with a model that knows the ground truth."""

import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pac_keras import __main__ as cli
from pac_keras.data.batch import Dataset
from pac_keras.data.image import Preprocessing
from pac_keras.data.shapes import ShapesSource
from pac_keras.detections.paste import truth_as_detections
from pac_keras.structures import PADDING, Detections


class LeftHalf:
    """Finds a "cat" in the left half of every picture."""

    num_classes, mask_threshold = 1, 0.5
    categories = ((17, "cat"),)
    preprocessing = Preprocessing(short_side=32, long_side=64)

    def predict_on_batch(self, images):
        height, width = images.sizes[0]
        frames = np.asarray([[[0, 0, width / 2, height], [0, 0, 0, 0]]], "float32")
        scores = np.asarray([[0.75, 0.0]], "float32")
        labels = np.asarray([[0, PADDING]], "int32")
        masks = np.ones((1, 2, 28, 28), "float32")
        return Detections(frames, labels, scores, scores, masks, frames)


class Truth:
    """Answers the ground truth of a data set, batch by batch."""

    mask_threshold = 0.5

    def __init__(self, dataset):
        self.categories, self.num_classes = dataset.categories, dataset.num_classes
        self.preprocessing = dataset.preprocessing
        self.batches = iter(dataset)

    def predict_on_batch(self, images):
        batch = next(self.batches)
        np.testing.assert_array_equal(batch.images.pixels, images.pixels)
        return truth_as_detections(batch.ground_truth)


@pytest.fixture
def use_model(monkeypatch):
    return lambda model: monkeypatch.setattr(cli, "_load_model", lambda path: model)


def save(path, height, width):
    Image.fromarray(np.full((height, width, 3), 128, "uint8")).save(path)


def test_predict_writes_pictures_and_results(tmp_path, use_model, capsys):
    use_model(LeftHalf())
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    save(photos / "000139.png", 20, 40)
    save(photos / "000285.jpg", 30, 20)
    assert cli.main(["predict", "m.keras", str(photos), "--out", str(out)]) == 0
    assert "2 objects in 2 pictures, 0 left out" in capsys.readouterr().out
    names = {"000139.png", "000285.png", "instances.json", "results.json"}
    assert {file.name for file in out.iterdir()} == names
    results = json.loads((out / "results.json").read_text())
    assert [(r["image_id"], r["category_id"], r["score"]) for r in results] == [
        (139, 17, 0.75),
        (285, 17, 0.75),
    ]
    mask = coco_mask.decode(results[0]["segmentation"])
    assert mask.shape == (20, 40) and mask[:, :20].all() and not mask[:, 20:].any()
    first = json.loads((out / "instances.json").read_text())[0]
    assert (first["file"], first["size"]) == (str(photos / "000139.png"), [20, 40])
    assert first["objects"][0]["name"] == "cat" and first["objects"][0]["box"] == [0, 0, 20, 20]
    overlay = np.asarray(Image.open(out / "000139.png"))
    assert (overlay[-10, 10] != 128).any() and (overlay[-10, -10] == 128).all()


def test_a_broken_picture_in_a_folder_is_left_out_and_named(tmp_path, use_model, capsys):
    use_model(LeftHalf())
    save(tmp_path / "a.png", 20, 40)
    (tmp_path / "b.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    assert cli.main(["predict", "m.keras", str(tmp_path), "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert "1 objects in 1 pictures, 1 left out" in captured.out
    assert captured.err.startswith("left out: ") and "b.png" in captured.err
    assert json.loads((out / "results.json").read_text())[0]["image_id"] == 1
    assert cli.main(["predict", "m.keras", str(tmp_path / "b.png"), "--out", str(out)]) == 2


def test_same_stems_get_their_own_files(tmp_path, use_model):
    use_model(LeftHalf())
    for name in ("a.png", "a.jpg", "b.png"):
        save(tmp_path / name, 20, 40)
    out = tmp_path / "out"
    arguments = ["predict", "m.keras", str(tmp_path), "--out", str(out), "--score", "0.8"]
    assert cli.main(arguments) == 0
    assert {file.name for file in out.glob("*.png")} == {"a.png.png", "a.jpg.png", "b.png"}
    assert json.loads((out / "results.json").read_text()) == []


@pytest.fixture
def evaluate(tmp_path, use_model):
    """`evaluate` of a model that knows the four pictures: (the metrics.json, the data set)."""

    def call(*options):
        dataset = Dataset(
            ShapesSource("valid", 4),
            training=False,
            batch_size=2,
            preprocessing=Preprocessing(short_side=128, long_side=128),
        )
        use_model(Truth(dataset))
        file = tmp_path / "run" / "metrics.json"
        arguments = ["evaluate", "m.keras", "--data", "shapes", "--limit", "4", "--batch-size", "2"]
        assert cli.main([*arguments, "--out", str(file), *options]) == 0
        return json.loads(file.read_text()), dataset

    return call


def test_evaluate_prints_and_writes_metrics(evaluate, capsys):
    metrics, dataset = evaluate()
    assert metrics["box"]["AP"] == pytest.approx(1.0)
    assert 0.9 < metrics["mask"]["AP"] <= 1.0  # frames are grids: a few pixels are lost
    assert set(metrics["per_class"]) == {category.name for category in dataset.categories}
    assert "boundary" not in metrics
    printed = capsys.readouterr().out
    assert f"{100 * metrics['mask']['AP']:.1f}" in printed and "F_1px" not in printed


def test_evaluate_with_boundary(evaluate, capsys):
    metrics, _ = evaluate("--boundary")
    found, printed = metrics["boundary"], capsys.readouterr().out
    assert 0.5 < found["AP"] <= metrics["mask"]["AP"]
    assert 0.9 < found["F_1px"] <= found["F_3px"] <= 1.0
    per_class = [one for one in metrics["per_class"].values() if one["mask"] >= 0]
    assert per_class and all(0.5 < one["boundary"] < one["mask"] + 1e-9 for one in per_class)
    for name in ("F_1px", "F_3px"):
        (line,) = (line.split("│")[1:-1] for line in printed.splitlines() if name in line)
        assert [cell.strip() for cell in line[1:]] == ["-", "-", f"{100 * found[name]:.1f}"]


def coco_folder(folder):
    """A COCO folder with one picture and one object of category 17."""
    (folder / "images").mkdir()
    save(folder / "images" / "7.png", 20, 40)
    box = {"bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0}
    outline = {"segmentation": [[0, 0, 20, 0, 20, 20, 0, 20]]}
    content = {
        "images": [{"id": 7, "file_name": "7.png", "height": 20, "width": 40}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 17, **box, **outline}],
        "categories": [{"id": 17, "name": "cat"}],
    }
    (folder / "val.json").write_text(json.dumps(content))


def test_evaluate_reads_folders_and_json_files(tmp_path, use_model):
    use_model(LeftHalf())
    coco_folder(tmp_path)
    file, images = tmp_path / "metrics.json", tmp_path / "images"
    for data in ([str(tmp_path)], [str(tmp_path / "val.json"), "--images", str(images)]):
        assert cli.main(["evaluate", "m.keras", "--data", *data, "--out", str(file)]) == 0
        metrics = json.loads(file.read_text())
        assert metrics["mask"]["AP"] == metrics["box"]["AP"] == pytest.approx(1.0)
        file.unlink()


def test_check_prints_the_report(tmp_path, capsys):
    coco_folder(tmp_path)
    assert cli.main(["check", str(tmp_path)]) == 0
    assert "mask AP of filled boxes 1.000" in capsys.readouterr().out
    (tmp_path / "images" / "7.png").write_bytes(b"no picture")
    assert cli.main(["check", str(tmp_path)]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nowhere"], "nowhere: no such json or folder"),
        (["check", "{folder}"], "expected val.json or instances_val.json"),
        (["check", "{folder}/a.png"], "Give --images DIR"),
        (["check", "shapes", "--split", "test"], "split must be one of"),
        (["predict", "nowhere.keras", "{folder}/a.png", "--out", "{folder}/out"], "no such model"),
        (["predict", "{folder}/a.png", "{folder}/a.png", "--out", "{folder}/out"], "not a .keras"),
        (["predict", "m.keras", "{folder}/b.png", "--out", "{folder}/out"], "b.png: no such"),
        (["predict", "m.keras", "{folder}", "--out", "{folder}"], "choose another"),
        (["predict", "m.keras", "{folder}", "--out", "o", "--score", "3"], "must be in [0, 1]"),
        (["evaluate", "nowhere.keras", "--data", "shapes"], "nowhere.keras: no such model"),
    ],
)
def test_user_errors_are_one_line_and_status_two(tmp_path, capsys, arguments, message):
    save(tmp_path / "a.png", 20, 40)
    assert cli.main([argument.format(folder=tmp_path) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pac_keras: error: ") and message in error
    assert error.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_traceback_on_request():
    with pytest.raises(FileNotFoundError):
        cli.main(["--traceback", "check", "nowhere"])


@pytest.mark.parametrize("command", ["predict", "evaluate", "check"])
def test_help_shows_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"python -m pac_keras {command} " in capsys.readouterr().out


def test_module_runs_as_a_program():
    command = [sys.executable, "-m", "pac_keras", "check", "shapes", "--limit", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected a whole number >= 1, got '0'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.txt": "no model"}, "cannot be loaded"),
        ({"config.json": "{", "metadata.json": "{}"}, "cannot be loaded"),
        ({"config.json": '{"module": "a", "class_name": "B", "config": {}}'}, "cannot be loaded"),
    ],
)
def test_foreign_model_files_are_one_line(tmp_path, capsys, members, message):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    assert cli.main(["evaluate", str(path), "--data", "shapes"]) == 2
    error = capsys.readouterr().err
    assert f"{path}: {message}" in error and error.count("\n") == 1


def test_a_model_of_another_kind_is_refused(tmp_path, capsys):
    path = tmp_path / "m.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)
    assert cli.main(["evaluate", str(path), "--data", "shapes"]) == 2
    assert "holds a Sequential, not a system" in capsys.readouterr().err


def test_browse_draws_what_the_network_will_see(tmp_path, capsys):
    config, out = "configs/pac_r18_shapes.py", tmp_path / "seen.png"
    few = ["--field", "train.count=8", "--field", "valid.count=2", "--field", "train.size=96"]
    assert cli.main(["browse", config, str(out), "--count", "5", *few]) == 0
    assert "seen.png: 5 pictures of shapes" in capsys.readouterr().out
    with Image.open(out) as sheet:
        assert sheet.width > 4 * 400 and sheet.height > 2 * 300  # 4 and 1 below, enlarged
        assert len(set(sheet.resize((64, 32)).getdata())) > 200
    assert cli.main(["browse", config, str(out), "--field", "train.sizes=96"]) == 2
    assert "did you mean 'size'" in capsys.readouterr().err
