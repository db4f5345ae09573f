"""`.keras` files that cannot be loaded: errors name the file, what was expected and what came."""

import json
import re
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny
from PIL import Image

import pac_keras
from pac_keras import MaskRCNN
from pac_keras.backbone.pretrained import PretrainedBackbone
from pac_keras.data.image import Preprocessing
from pac_keras.systems import keras_file
from pac_keras.systems.versions import is_newer

APP = Path(__file__).parents[2] / "export" / "examples" / "app.py"
HERE, KERAS = pac_keras.__version__, keras.__version__


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Path of a file that loads, of a model that is sure of a "cup" in each of its regions."""
    model = tiny.build(MaskRCNN)
    model.categories = tuple(enumerate(("dot", "cup", "pen", "hat", "cat")))
    model.preprocessing = Preprocessing(64, 96)
    model.stage.head.classes.bias.assign([0.0, 9.0, 0.0, 0.0, 0.0, 0.0])
    model.save(tmp_path_factory.mktemp("good") / "model.keras")
    return tmp_path_factory.getbasetemp() / "good0" / "model.keras"


@pytest.fixture
def changed(good, tmp_path):
    """Function: {member of the archive: bytes -> bytes, or None} -> the file with those changed."""

    def write(changes):
        path = tmp_path / "changed.keras"
        with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                change = changes.get(name, bytes)
                if change:
                    target.writestr(name, change(source.read(name)))
        return path

    return write


def edited(**fields):
    """The change of a JSON member: some fields of its dict; those of a dict one by one."""

    def change(text):
        content = json.loads(text)
        for name, value in fields.items():
            content[name] = content[name] | value if isinstance(value, dict) else value
        return json.dumps(content).encode()

    return change


def config(**fields):
    return {"config.json": edited(**fields)}


def without_version(text):
    """The change of a config to one of before the version was kept."""
    content = json.loads(text)
    del content["config"]["pac_keras_version"]
    return json.dumps(content).encode()


def refused(path):
    """What `keras_file.load` says about a file: one short sentence behind its name."""
    with pytest.raises(ValueError, match=re.escape(f"{path}: ")) as error:
        keras_file.load(path)
    message = str(error.value).removeprefix(f"{path}: ")
    assert "\n" not in message and len(message) < 700
    return message


NEWER = {"pac_keras_version": "99.0.0"}
CASES = {
    "no config": ({"config.json": None}, "no config.json in it, which Keras writes"),
    "no JSON": ({"config.json": lambda text: text[:40]}, "config.json in it is no JSON"),
    "no object": ({"config.json": lambda text: b"[]"}, "config.json in it is [], not an object"),
    "no weights": ({"model.weights.h5": None}, "Expected a model.weights.h5"),
    "cut weights": (
        {"model.weights.h5": lambda content: content[: len(content) // 2]},
        "cannot be loaded: its weights: Unable to synchronously open file (truncated file",
    ),
    "other weights": (config(config={"channels": 16}), "objects could not be loaded"),
    "unknown system": (
        config(registered_name="pac_keras>Foo", class_name="Foo", config=NEWER),
        "it holds a pac_keras>Foo of the module pac_keras.systems.mask_rcnn, saved by pac_keras "
        f"99.0.0, which pac_keras {HERE} does not know; expected a system of pac_keras",
    ),
    "unknown class": (
        config(registered_name="mine>Foo", module="mine", class_name="Foo"),
        f"it holds a mine>Foo of the module mine, saved by pac_keras {HERE}, which pac_keras",
    ),
    "class that is no system": (
        config(registered_name="pac_keras>PretrainedBackbone", class_name="PretrainedBackbone"),
        "holds a PretrainedBackbone, not a system of pac_keras",
    ),
    "unknown argument": (config(config={"new": 3}), "arguments passed to MaskRCNN: {'new': 3}"),
    "wrong argument": (config(config={"norm": "no"}), "`norm` must be one of ['frozen', 'batch']"),
    "newer pac_keras": (
        config(config=NEWER),
        f"this MaskRCNN was saved by pac_keras 99.0.0, and {HERE} is installed: to load it, "
        "install pac_keras 99.0.0 or newer",
    ),
    "newer Keras": (
        config(config={"new": 3}) | {"metadata.json": edited(keras_version="99.0.0")},
        f"cannot be loaded: Keras 99.0.0 wrote it, and {KERAS} is installed: Unrecognized keyword",
    ),
    "no version of Keras": (
        config(config={"new": 3}) | {"metadata.json": edited(keras_version="new")},
        "cannot be loaded: Keras's version in it: expected a version as 0.1.0, got 'new'; Unrec",
    ),
    "no preprocessing": (
        config(config={"preprocessing": None}),
        "knows no preprocessing, so pictures cannot be made into its input: fit it, or set",
    ),
}


@pytest.mark.parametrize(("changes", "message"), CASES.values(), ids=CASES)
def test_contents_that_cannot_be_read(changed, changes, message):
    assert message in refused(changed(changes))


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.keras: no such model file"):
        keras_file.load(tmp_path / "none.keras")


def test_another_suffix(tmp_path):
    path = tmp_path / "model.h5"
    path.write_bytes(b"something")
    assert refused(path) == "not a .keras file: expected a name that ends with .keras"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_truncated(good, tmp_path, share):
    content, path = good.read_bytes(), tmp_path / "cut.keras"
    path.write_bytes(content[: int(share * len(content))])
    message = refused(path)
    assert "cut off: expected a whole zip archive, got " in message
    assert f"{int(share * len(content))} other bytes" in message


def test_changed_bytes_do_not_become_weights(good, tmp_path):
    content, path = bytearray(good.read_bytes()), tmp_path / "damaged.keras"
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert refused(path) == "damaged: model.weights.h5 in it does not have its checksum"


def test_a_model_of_keras(tmp_path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    assert refused(tmp_path / "other.keras") == "holds a Sequential, not a system of pac_keras"


def test_a_lambda_inside_does_not_run(tmp_path):
    """Neither here nor by `keras.models.load_model`, whose safe_mode reaches the backbone."""
    path, ran = tmp_path / "lambda.keras", tmp_path / "ran"
    pixels = keras.Input((None, None, 3))
    maps = [keras.layers.AveragePooling2D(size)(pixels) for size in (4, 8, 16, 32)]
    name = str(ran)
    touch = keras.layers.Lambda(lambda x: (open(name, "w").close(), x)[1])
    inner = keras.Model(pixels, [touch(maps[0]), *maps[1:]])
    backbone = PretrainedBackbone(inner, "normalized", True, (0.0,) * 3, (1.0,) * 3)
    tiny.build(MaskRCNN, backbone=backbone).save(path)
    ran.unlink()
    assert "`function` is a Python lambda. This carries a potential risk" in refused(path)
    with pytest.raises(ValueError, match="is a Python lambda"):
        keras.models.load_model(path)
    assert not ran.exists()


def test_plain_load_model_refuses_a_newer_version(changed):
    with pytest.raises(ValueError, match=rf"^this MaskRCNN .* 99\.0\.0, and {HERE} is installed"):
        keras.models.load_model(changed(config(config=NEWER)))


def test_older_files_load(good, changed, monkeypatch):
    """Those of before the version was kept, and those of a version before this one."""
    for change in (without_version, edited(config={"pac_keras_version": "0.0.9"})):
        model = keras_file.load(changed({"config.json": change}))
        assert model.get_config()["pac_keras_version"] == HERE
    monkeypatch.setattr(pac_keras, "__version__", "0.10.0")
    assert keras_file.load(good).num_classes == tiny.CLASSES


def test_a_readable_file_of_a_newer_keras_loads(changed):
    path = changed({"metadata.json": edited(keras_version="99.0.0")})
    assert type(keras_file.load(path)) is MaskRCNN


def test_versions_are_compared_by_number():
    assert is_newer("0.10.0", "0.9.3") and is_newer("1.0.0rc1", "0.9.9")
    assert not is_newer("0.9.3", "0.10.0") and not is_newer("0.1.0", "0.1.0")
    with pytest.raises(ValueError, match=r"expected a version as 0\.1\.0, got 'new'"):
        is_newer("new", "0.1.0")


def test_the_application_script(good, tmp_path):
    assert len(APP.read_text().splitlines()) <= 15
    picture = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), "uint8")
    Image.fromarray(noise).save(picture)
    lines = tiny.run_python([APP, good, picture]).splitlines()
    form = rf"{re.escape(str(picture))}: cup (0\.9\d|1\.00) \[[-.\d]+(, [-.\d]+){{3}}\]"
    assert lines and all(re.fullmatch(form, line) for line in lines)
    overlay = np.asarray(Image.open(f"{picture}.found.png"))  # enlarged, for the labels
    assert overlay.shape == (480, 720, 3)
    assert (overlay != noise.repeat(8, 0).repeat(8, 1)).any()
