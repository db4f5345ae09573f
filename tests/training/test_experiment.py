import json
from functools import partial

import pytest

from pac_keras import HTC
from pac_keras.data import Category, Preprocessing, coco, coco_folder
from pac_keras.training.experiment import (
    Experiment,
    ExperimentError,
    describe,
    keywords,
    load_config,
    parameters,
)
from pac_keras.training.overrides import apply_overrides, use_data


def system(num_classes, num_semantic_classes, channels=256, semantic_fusion=("box", "mask")):
    return num_classes, num_semantic_classes, channels, semantic_fusion


class Dataset:
    def __init__(self, names, training, batch_size, seed):
        self.categories = tuple(Category(k + 1, name) for k, name in enumerate(names))
        self.num_classes, self.num_semantic_classes = len(names), len(names) + 1
        self.made_with = {"training": training, "batch_size": batch_size, "seed": seed}
        self.source = self
        self.name = "some data"


def data(names="ab", *, training, batch_size, seed=None, preprocessing=Preprocessing()):  # noqa: B008
    return Dataset(names, training, batch_size, seed)


def experiment(**fields):
    return Experiment(**({"model": system, "train": data, "valid": data} | fields))


def test_data_and_model_get_what_the_experiment_says():
    train, valid = experiment(batch_size=3, seed=5, valid=partial(data, batch_size=1)).build_data()
    assert train.made_with == {"training": True, "batch_size": 3, "seed": 5}
    assert valid.made_with == {"training": False, "batch_size": 1, "seed": None}
    assert experiment(model=partial(system, channels=8)).build_model(train)[:3] == (2, 3, 8)
    assert experiment(valid=None).build_data()[1] is None


def test_wrong_class_count_names_the_data():
    train, _ = experiment().build_data()
    with pytest.raises(
        ExperimentError, match=r"model.num_classes: expected 2, as in some data, r.* 5"
    ):
        experiment(model=partial(system, num_classes=5)).build_model(train)


def test_a_semantic_branch_needs_a_map():
    train, _ = experiment().build_data()
    train.num_semantic_classes = 0  # as of data with more classes than 8 bits hold
    with pytest.raises(ExperimentError, match=r"HTC learns a semantic map.* 2 cat.* some data"):
        experiment(model=HTC).build_model(train)
    small = partial(HTC, backbone="resnet18", base_channels=16, channels=8, semantic="none")
    assert experiment(model=small).build_model(train).semantic is None


def test_validation_with_other_categories():
    with pytest.raises(
        ExperimentError, match=r"expected the categories .* 2 \(a, b\), rec.* 1 \(a\)"
    ):
        experiment(valid=partial(data, "a")).build_data()


def test_missing_place_of_the_data():
    with pytest.raises(ExperimentError, match="train: folder is not given; pass --data"):
        experiment(train=partial(coco_folder, split="train")).build_data()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "adam"}, "optimizer: expected one of .*'adam'; did you mean 'adamw'"),
        ({"precision": "half"}, "precision: expected one of"),
        ({"epochs": 0}, "epochs: expected at least 1, received 0"),
        ({"learning_rate": 0.0}, "learning_rate: expected > 0"),
        ({"clip_norm": -1.0}, "clip_norm: expected > 0 or None"),
        ({"milestones": (19, 16)}, "milestones: expected ascending epochs"),
        ({"milestones": ("a",)}, "milestones: expected ascending epochs"),
    ],
)
def test_impossible_values(fields, message):
    with pytest.raises(ExperimentError, match=message):
        experiment(**fields)


def test_overrides_of_fields_and_arguments():
    start = experiment(
        model=partial(system, channels=64),
        train=partial(data, "xyz", preprocessing=Preprocessing(short_side=100)),
    )
    arguments = (
        "--epochs 3 --learning-rate=1 --milestones 1,2 --clip_norm 35 --schedule cosine "
        "--model.channels 32 --model.semantic_fusion box,mask --model.num_classes 7 "
        "--train.preprocessing.short_side 256"
    )
    changed = apply_overrides(start, arguments.split())
    assert (changed.epochs, changed.learning_rate, changed.milestones) == (3, 1.0, (1, 2))
    assert isinstance(changed.learning_rate, float)
    assert (changed.clip_norm, changed.schedule) == (35.0, "cosine")
    assert changed.model(num_semantic_classes=9) == (7, 9, 32, ("box", "mask"))
    expected = {"names": "xyz", "preprocessing": Preprocessing(short_side=256)}
    assert changed.train.keywords == expected
    assert apply_overrides(changed, ["--clip_norm", "none"]).clip_norm is None
    assert changed.boundary and not apply_overrides(changed, ["--boundary", "false"]).boundary
    assert start.epochs == 20
    assert start.model.keywords == {"channels": 64}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "3"], "--epoch: no such field; did you mean 'epochs'?"),
        (["--epochs", "3.5"], "--epochs: expected int, received '3.5'"),
        (["--boundary", "1"], "--boundary: expected bool, received '1'"),
        (["--epochs", "true"], "--epochs: expected int, received 'true'"),
        (["--learning_rate", "fast"], "--learning_rate: expected float, received 'fast'"),
        (["--clip_norm", "x"], "--clip_norm: expected float or NoneType, received 'x'"),
        (["--epochs", "0"], "epochs: expected at least 1"),
        (["--epochs"], "--epochs: expected a value"),
        (["epochs", "3"], "expected --field value, received 'epochs'"),
        (["--model", "PAC"], "--model: is code"),
        (["--model.chanels", "3"], "--model.chanels: no such field; did you mean 'channels'?"),
        (["--model.channels", "wide"], "--model.channels: expected int, received 'wide'"),
        (["--epochs.number", "3"], "20 has no fields"),
        (["--train.preprocessing.side", "3"], "--train.preprocessing.side: no such field"),
    ],
)
def test_override_errors_name_the_option(arguments, message):
    with pytest.raises(ExperimentError) as error:
        apply_overrides(experiment(), arguments)
    assert message in str(error.value)


def test_data_from_the_command_line(tmp_path):
    json_file = tmp_path / "some.json"
    json_file.touch()
    start = experiment(train=partial(data, "ab", preprocessing=Preprocessing(64)))
    folder = use_data(start, str(tmp_path))
    kept = {"preprocessing": Preprocessing(64)}
    assert (folder.train.func, folder.train.args) == (coco_folder, (str(tmp_path), "train"))
    assert folder.valid.args == (str(tmp_path), "val")
    assert (folder.train.keywords, folder.valid.keywords) == (kept, {})
    files = use_data(start, str(json_file), "pictures", valid=str(json_file))
    assert (files.train.func, files.train.args) == (coco, (str(json_file), "pictures"))
    assert files.valid.args == (str(json_file), "pictures")
    assert use_data(start, str(json_file), "pictures", valid="none").valid is None
    assert use_data(start) == start
    more = apply_overrides(folder, ["--train.limit", "8"])
    assert more.train.keywords == {"folder": str(tmp_path), "split": "train", "limit": 8} | kept


def test_data_that_cannot_be(tmp_path):
    json_file = tmp_path / "some.json"
    json_file.touch()
    for places, message in [
        ((str(tmp_path / "no"),), "--data: no such file or folder"),
        ((str(json_file), "pictures"), "a json needs --valid JSON"),
        ((str(json_file), None, str(json_file)), "needs the folder of its pictures, --images"),
        ((None, "pictures"), "--images: expected --data JSON"),
    ]:
        with pytest.raises(ExperimentError, match=message):
            use_data(experiment(), *places)


def test_load_config_errors(tmp_path):
    (tmp_path / "pac_small.py").write_text("experiment = 3\n")
    with pytest.raises(
        ExperimentError, match=r"expected `experiment = Experiment\(...\)`, received 3"
    ):
        load_config(tmp_path / "pac_small.py")
    with pytest.raises(FileNotFoundError, match=r"did you mean 'pac_small\.py'"):
        load_config(tmp_path / "pac_smal.py")


def test_description_is_json():
    text = json.dumps(describe(experiment(train=partial(data, preprocessing=Preprocessing(64)))))
    found = json.loads(text)
    assert found["train"]["call"].endswith("test_experiment.data")
    assert found["train"]["preprocessing"]["short_side"] == 64
    assert (found["milestones"], found["clip_norm"]) == ([16, 19], None)


def test_parameters_of_a_class_include_those_of_its_base():
    class Base:
        def __init__(self, num_classes, channels=256):
            pass

    class System(Base):
        def __init__(self, num_classes, *, semantic="paspe", **shared):
            pass

    class Closed(Base):
        def __init__(self, num_classes):
            pass

    found = parameters(System)
    assert list(found) == ["num_classes", "channels", "semantic"]
    assert (found["channels"], found["semantic"]) == (256, "paspe")
    assert list(parameters(Closed)) == ["num_classes"]
    assert keywords(partial(System, 3, channels=8)) == {"num_classes": 3, "channels": 8}
