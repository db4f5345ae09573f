"""Every config loads, says what exists, and keeps the rules of its docstring."""

import inspect
import pathlib

import pytest

from pac_keras.data import coco, coco_folder
from pac_keras.training.experiment import describe, keywords, load_config, parameters

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))
PAPERS = {  # config: epochs, milestones, backbone
    "pac_r50_coco": (20, (16, 19), "resnet50"),
    "pac_r18_coco": (12, (8, 11), "resnet18"),
    "pac_x101_coco": (20, (16, 19), "resnext101_32x4d"),
    "htc_r50_coco": (20, (16, 19), "resnet50"),
    "mask_rcnn_r50_coco": (24, (16, 22), "resnet50"),
    "cascade_mask_rcnn_r50_coco": (20, (16, 19), "resnet50"),
    "ms_rcnn_r50_coco": (24, (16, 22), "resnet50"),
}


def test_the_configs_are_there():
    small = {"pac_r18_shapes", "pac_r18_nuclei", "pac_r18_folder"}
    assert {path.stem for path in CONFIGS} >= small | set(PAPERS)


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
    assert experiment.model.keywords["backbone"].startswith(
        {"r50": "resnet50", "r18": "resnet18", "x101": "resnext101"}[backbone]
    )


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_settings(name):
    experiment = load_config(CONFIGS[0].with_name(f"{name}.py"))
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
