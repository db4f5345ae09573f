"""`.keras` files: non-default arguments come back, in a process that knows `pac_keras` alone."""

import keras
import numpy as np
import pytest
import tiny

from pac_keras import HTC, PAC, RDSNet, RDSNetS, RefineMask, SCNet

pytest.importorskip("tensorflow")

SHARED = {"score_threshold": 0.01, "nms_threshold": 0.4, "max_detections": 7, "max_candidates": 90}
CASES = {
    "htc": (
        HTC,
        {
            "semantic_fusion": ("mask",),
            "semantic_loss_weight": 0.7,
            "interleaved": False,
            "test_mask_stage": 2,
        },
    ),
    "htc_compiled": (HTC, {"mask_info_flow": False, "semantic": "none", "sampling_ratio": 0}),
    "pac": (
        PAC,
        {
            "semantic": "aspp",
            "roi_fusion": "concat",
            "decoder_convs": 1,
            "quality_convs": 2,
            "quality_info_flow": True,
            "rescore": "segm",
        },
    ),
    "scnet": (SCNet, {"sample_consistency": "none", "mask_rois": "b3", "residual_blocks": False}),
    "scnet_compiled": (SCNet, {"feature_relay": False, "global_context_weight": 1.5}),
    "refinemask": (RefineMask, {"variant": "simple", "fusion": "conv3x3", "boundary_width": 1}),
    "refinemask_compiled": (
        RefineMask,
        {
            "num_stages": 2,
            "semantic_head": False,
            "boundary_aware": False,
            "deep_supervision": False,
            "class_agnostic_last": True,
            "box_error": "smooth_l1",
            "box_loss_weight": 1.0,
        },
    ),
    "rdsnet": (
        RDSNet,
        {
            "legacy": True,
            "rep_background": False,
            "box_refinement": "direct",
            "train_expand": None,
            "test_expand": 1.0,
        },
    ),
    "rdsnet_compiled": (RDSNet, {"combine": "linear", "ohem": False, "prior_width": 0.1}),
    "refinement_compiled": (RDSNet, {"trained_part": "box_refinement", "mask_threshold": 0.3}),
    "rdsnet_s": (RDSNetS, {"semantic_branch": False, "combine": "linear"}),
    "rdsnet_s_compiled": (RDSNetS, {"pre_nms": 40, "mask_samples": 5}),
    "pac_compiled": (PAC, {"semantic": "htc", "test_mask_stage": 1, "mask_quality": True}),
}
CATEGORIES = ((3, "dot"), (7, "cup"), (8, "pen"), (9, "hat"), (11, "cat"))

# The warning that a layer was not built or that variables were not loaded must not pass.
RELOAD = """
import sys, warnings
import pac_keras, keras
warnings.simplefilter("error", UserWarning)
import numpy as np

folder = sys.argv[1]
for name in sys.argv[2:]:
    model = keras.models.load_model(f"{folder}/{name}.keras")
    given = np.load(f"{folder}/{name}.npz")
    found = model(pac_keras.Images(given["pixels"], given["sizes"]))
    for field, value in found._asdict().items():
        np.testing.assert_allclose(value, given[field], rtol=1e-5, atol=1e-5, err_msg=field)
    assert model.compiled == name.endswith("compiled"), name
    if model.compiled:
        assert (model.weight_decay, model.clip_norm) == (0.003, 4.0)
        assert model.optimizer.momentum == 0.8
        np.testing.assert_allclose(model.optimizer.learning_rate, 0.03, rtol=1e-6)
        state = np.concatenate([np.ravel(v) for v in model.optimizer.variables])
        np.testing.assert_allclose(state, given["state"], rtol=1e-5, atol=1e-6)
    assert len(model.weights) == len(given["sums"])
    sums = [float(np.sum(np.abs(v))) for v in model.weights]
    np.testing.assert_allclose(sums, given["sums"], rtol=1e-5)
    categories = ((3, "dot"), (7, "cup"), (8, "pen"), (9, "hat"), (11, "cat"))
    assert model.categories == (categories if model.compiled else None)
    assert (model.preprocessing.long_side == 96) if model.compiled else not model.preprocessing
    print(name, model.max_detections)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{name: model} of `CASES`, saved to a folder with what they answer."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for seed, (name, (system, arguments)) in enumerate(CASES.items()):
        found[name] = model = tiny.build(system, seed, **(SHARED | arguments))
        if name.endswith("compiled"):
            _train(model)
        _save(model, folder, name)
    return found, folder


def _train(model):
    """One step, so that the optimizer and the batch norms have something to remember."""
    from pac_keras.data.image import Preprocessing

    model.categories, model.preprocessing = CATEGORIES, Preprocessing(64, 96)
    model.compile(keras.optimizers.SGD(0.03, momentum=0.8), weight_decay=0.003, clip_norm=4.0)
    model.train_step(tiny.tensors(tiny.batch()))


def _save(model, folder, name):
    model.save(folder / f"{name}.keras")
    images = tiny.images()
    answers = tiny.numbers(model(tiny.tensors(images)))
    assert np.any(answers["labels"] >= 0)
    state = (
        [np.ravel(keras.ops.convert_to_numpy(v)) for v in model.optimizer.variables]
        if model.compiled
        else [[0.0]]
    )
    sums = [float(np.sum(np.abs(keras.ops.convert_to_numpy(v)))) for v in model.weights]
    np.savez(
        folder / f"{name}.npz",
        **images._asdict(),
        **answers,
        sums=sums,
        state=np.concatenate(state),
    )


def test_reloads_in_a_fresh_process_with_equal_answers(models):
    found, folder = models
    output = tiny.run_python(["-c", RELOAD, folder, *found])
    assert output.split("\n")[-len(found) - 1 : -1] == [f"{name} 7" for name in found]


def test_arguments_come_back(models):
    for name, model in models[0].items():
        config = model.get_config()
        system, arguments = CASES[name]
        expected = tiny.arguments(system) | SHARED | arguments
        assert {argument: config[argument] for argument in expected} == expected
        assert config["num_classes"] == tiny.CLASSES
