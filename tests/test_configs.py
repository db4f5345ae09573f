"""Every config loads, says what exists, and keeps the rules of its docstring."""

import inspect
import pathlib

import pytest

from pac_keras.data import Augmentation, Preprocessing, coco, coco_folder
from pac_keras.training.experiment import describe, keywords, load_config, parameters
from pac_keras.training.overrides import apply_overrides

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))
PAPERS = {  # config: epochs, milestones, backbone
    "pac_r50_coco": (20, (16, 19), "resnet50"),
    "pac_r18_coco": (12, (8, 11), "resnet18"),
    "pac_x101_coco": (20, (16, 19), "resnext101_32x4d"),
    "htc_r50_coco": (20, (16, 19), "resnet50"),
    "mask_rcnn_r50_coco": (24, (16, 22), "resnet50"),
    "cascade_mask_rcnn_r50_coco": (20, (16, 19), "resnet50"),
    "ms_rcnn_r50_coco": (24, (16, 22), "resnet50"),
    "scnet_r50_coco": (20, (16, 19), "resnet50"),
    "scnet_r101_coco": (20, (16, 19), "resnet101"),
    "scnet_x101_coco": (20, (16, 19), "resnext101_64x4d"),
    "refinemask_r50_coco": (12, (8, 11), "resnet50"),
}


def config(name):
    return load_config(CONFIGS[0].with_name(f"{name}.py"))


def test_the_configs_are_there():
    others = {"pac_r18_shapes", "pac_r18_nuclei", "pac_r18_folder"}
    others |= {"refinemask_r50_lvis", "refinemask_r50_cityscapes"}
    others |= {"rdsnet_r50_coco", "rdsnet_r101_coco", "rdsnet_s_r101_coco", "rdsnet_r18_shapes"}
    assert {path.stem for path in CONFIGS} >= others | set(PAPERS)


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def path(request):
    return request.param


def test_arguments_exist(path):
    experiment = load_config(path)
    known = parameters(experiment.model.func)
    assert "num_classes" in known
    assert set(keywords(experiment.model)) <= set(known)
    for part in (experiment.train, experiment.valid):
        options = set(parameters(coco)) if part.func is coco_folder else set()
        assert part.keywords.keys() <= set(parameters(part.func)) | options
        inspect.signature(part.func).bind_partial(*part.args, **part.keywords)
    assert describe(experiment)["train"]["call"].startswith("pac_keras.data")


def test_names_and_docstrings(path):
    text = path.read_text()
    docstring = text.split('"""')[1]
    experiment = load_config(path)
    assert f"python train.py configs/{path.name}" in docstring
    assert "Expected" in docstring
    assert f"* B / {experiment.batch_size}" in docstring  # the linear rule
    system, backbone, _ = path.stem.rsplit("_", 2)
    name = experiment.model.func.__name__
    assert system.replace("ms_", "mask_scoring_").replace("_", "") == name.lower()
    kind = experiment.model.keywords["backbone"].partition("_")[0]  # without groups and width
    assert kind == backbone.replace("r", "resnet").replace("x", "resnext")


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_settings(name):
    experiment = config(name)
    epochs, milestones, backbone = PAPERS[name]
    assert (experiment.epochs, experiment.milestones) == (epochs, milestones)
    assert experiment.model.keywords == {"backbone": backbone}
    assert (experiment.optimizer, experiment.momentum, experiment.weight_decay) == (
        "sgd",
        0.9,
        1e-4,
    )
    assert (experiment.learning_rate, experiment.batch_size) == (0.02, 16)
    assert (experiment.warmup_steps, experiment.warmup_factor) == (500, 0.001)
    has_semantic_branch = "num_semantic_classes" in parameters(experiment.model.func)
    assert ("semantic" in experiment.train.keywords) == has_semantic_branch
    assert experiment.clip_norm == (35 if name.startswith("refinemask") else None)


@pytest.mark.parametrize("data", ["coco", "lvis", "cityscapes"])
def test_frames_are_twice_as_fine_as_the_last_mask(data):
    assert config(f"refinemask_r50_{data}").train.keywords["frame"] == (224, 224)


def test_refinemask_on_lvis():
    experiment = config("refinemask_r50_lvis")
    assert experiment.model.keywords == {
        "backbone": "resnet50",
        "class_agnostic_last": True,
        "score_threshold": 1e-4,
        "max_detections": 300,
        "max_candidates": 10000,
    }
    data = experiment.train.keywords
    assert (data["repeat_threshold"], data["max_objects"]) == (0.001, 300)
    assert data["augmentation"] == Augmentation(0.5, (640, 672, 704, 736, 768, 800))
    assert (experiment.epochs, experiment.milestones) == (12, (8, 11))
    assert (experiment.batch_size, experiment.learning_rate, experiment.clip_norm) == (16, 0.02, 35)


def test_refinemask_on_cityscapes():
    experiment = config("refinemask_r50_cityscapes")
    assert experiment.model.keywords == {"backbone": "resnet50", "box_error": "smooth_l1"}
    for part in (experiment.train, experiment.valid):
        assert part.keywords["preprocessing"] == Preprocessing(1024, 2048)
    sides = experiment.train.keywords["augmentation"].short_sides
    assert (min(sides), max(sides), len(sides)) == (800, 1024, 225)
    assert (experiment.epochs, experiment.milestones) == (64, (56,))
    assert (experiment.batch_size, experiment.learning_rate, experiment.clip_norm) == (8, 0.01, 35)


def test_refinemasks_longer_schedules_as_its_docstring_says():
    text = CONFIGS[0].with_name("refinemask_r50_coco.py").read_text()
    sides = ",".join(str(side) for side in range(640, 801))
    options = text.replace("$(seq -s, 640 800)", sides).split()
    experiment = config("refinemask_r50_coco")
    start = options.index("2x:") + 1
    double = apply_overrides(experiment, options[start : start + 4])
    assert (double.epochs, double.milestones) == (24, (16, 22))
    assert double.train == experiment.train
    start = options.index("3x") + 4
    triple = apply_overrides(experiment, options[start : start + 6])
    assert (triple.epochs, triple.milestones) == (36, (28, 34))
    assert triple.train.keywords["augmentation"] == Augmentation(0.5, tuple(range(640, 801)))
    assert triple.train.keywords["frame"] == (224, 224)


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101"])
def test_rdsnet_and_its_second_run(backbone):
    name = f"rdsnet_{backbone.replace('resnet', 'r')}_coco"
    experiment = config(name)
    assert experiment.model.keywords == {"backbone": backbone}
    assert (experiment.epochs, experiment.milestones) == (12, (8, 11))
    assert (experiment.batch_size, experiment.learning_rate, experiment.clip_norm) == (8, 0.005, 35)
    assert (experiment.warmup_steps, experiment.warmup_factor) == (500, 1 / 3)
    options = CONFIGS[0].with_name(f"{name}.py").read_text().replace("\\", " ").split()
    start = options.index("--model.trained_part")
    second = apply_overrides(experiment, options[start : start + 8])
    assert second.model.keywords["trained_part"] == "box_refinement"
    assert (second.epochs, second.train.keywords["limit"] / second.batch_size) == (1, 1000)


def test_rdsnet_s():
    experiment = config("rdsnet_s_r101_coco")
    assert experiment.model.keywords == {"backbone": "resnet101"}
    for part in (experiment.train, experiment.valid):
        assert part.keywords["preprocessing"] == Preprocessing(550, 550, keep_ratio=False)
    assert (experiment.epochs, experiment.batch_size, experiment.learning_rate) == (48, 8, 1e-3)
    assert (experiment.momentum, experiment.weight_decay) == (0.9, 5e-4)


def test_frame_and_repeats_from_the_command_line():
    options = ["--train.frame", "448,336", "--train.repeat_threshold=0.01"]
    data = apply_overrides(config("pac_r50_coco"), options).train.keywords
    assert (data["frame"], data["repeat_threshold"]) == ((448, 336), 0.01)
    data = apply_overrides(config("pac_r18_folder"), options).train.keywords
    assert (data["frame"], data["repeat_threshold"]) == ((448, 336), 0.01)
    data = apply_overrides(config("pac_r18_shapes"), options[:2]).train.keywords
    assert data["frame"] == (448, 336)
