"""Errors at the systems' border name the argument, what was expected and what came."""

import numpy as np
import pytest
import tiny

import pac_keras
from pac_keras.data import shapes


@pytest.fixture(scope="module", params=tiny.SYSTEMS, ids=lambda system: system.__name__)
def system(request):
    return request.param


@pytest.fixture(scope="module")
def model(system):
    return tiny.build(system)


@pytest.mark.parametrize("num_classes", [0, -1, 2.0, "80", None])
def test_number_of_classes(system, num_classes):
    with pytest.raises(ValueError, match=rf"num_classes.*positive int.*{num_classes!r}"):
        system(num_classes)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("backbone", "resnet19", "resnet18"),
        ("norm", "group", "frozen"),
        ("frozen_stages", 7, "0"),
        ("sampling", "last", "first"),
    ],
)
def test_unknown_choice(system, name, value, expected):
    check_choice_is_refused(system, name, value, expected)


def check_choice_is_refused(system, name, value, expected):
    with pytest.raises(ValueError) as error:
        tiny.build(system, **{name: value})
    message = str(error.value)
    assert name in message and expected in message and repr(value).strip("(),") in message


@pytest.mark.parametrize(
    ("system", "name", "value", "expected"),
    [
        (pac_keras.HTC, "semantic", "deeplab", "none"),
        (pac_keras.PAC, "semantic", "deeplab", "none"),
        (pac_keras.HTC, "semantic_fusion", ("boxes",), "'box', 'mask'"),
        (pac_keras.PAC, "semantic_fusion", ("boxes",), "'box', 'mask'"),
        (pac_keras.HTC, "test_mask_stage", 4, "ensemble"),
        (pac_keras.PAC, "test_mask_stage", 4, "ensemble"),
        (pac_keras.CascadeMaskRCNN, "test_mask_stage", 4, "ensemble"),
        (pac_keras.PAC, "rescore", "box", "segm"),
        (pac_keras.SCNet, "sample_consistency", "full", "effective"),
        (pac_keras.SCNet, "mask_rois", "b1", "b2"),
        (pac_keras.RefineMask, "variant", "fast", "simple"),
        (pac_keras.RefineMask, "fusion", "sum", "sfm"),
        (pac_keras.RefineMask, "box_error", "l2", "smooth_l1"),
        (pac_keras.RefineMask, "boundary_width", 0, "1, 2, 3"),
        (pac_keras.RefineMask, "num_stages", 5, "4"),
        (pac_keras.RDSNet, "combine", "product", "linear"),
        (pac_keras.RDSNet, "box_refinement", "mask", "direct"),
        (pac_keras.RDSNetS, "trained_part", "masks", "box_refinement"),
        (pac_keras.PAC, "roi_fusion", "mean", "concat"),
        (pac_keras.MaskScoringRCNN, "rescore", "box", "segm"),
        (pac_keras.MaskScoringRCNN, "quality_threshold", "mask", "logit"),
    ],
)
def test_unknown_choice_of_some_systems(system, name, value, expected):
    check_choice_is_refused(system, name, value, expected)


def test_unknown_argument(system):
    with pytest.raises((TypeError, ValueError), match="num_clases"):
        tiny.build(system, num_clases=3)


def test_call_takes_images_alone(model):
    pixels = tiny.images().pixels
    with pytest.raises(TypeError, match="Images"):
        model(pixels)


def test_canvas_must_be_a_multiple_of_32(model):
    with pytest.raises(ValueError, match=r"height .*multiple of 32.* 80"):
        model(tiny.tensors(tiny.images(((80, 96),), (80, 96))))
    with pytest.raises(ValueError, match=r"width .*multiple of 32.* 100"):
        model(tiny.tensors(tiny.images(((64, 100),), (64, 100))))


def test_refinemask_needs_channels_to_halve():
    with pytest.raises(ValueError, match=r"`channels` must be a multiple of 8.*Received: 36"):
        tiny.build(pac_keras.RefineMask, channels=36)
    with pytest.raises(ValueError, match=r"at least 6 .*num_stages=4.*Received: 32"):
        tiny.build(pac_keras.RefineMask, channels=32, num_stages=4)


def test_refinemask_refines_only_masks_that_are_trained():
    with pytest.raises(ValueError, match=r"deep_supervision.*boundary_aware=False"):
        tiny.build(pac_keras.RefineMask, deep_supervision=False)


def test_rdsnet_trains_only_a_refinement_that_is_there():
    with pytest.raises(ValueError, match=r'box_refinement="bayes".*none'):
        tiny.build(pac_keras.RDSNet, trained_part="box_refinement", box_refinement="none")


@pytest.mark.parametrize(
    "arguments",
    [{"norm": "frozen"}, {"frozen_stages": 1}],
    ids=["statistics", "first stage"],
)
def test_fit_refuses_frozen_random_weights(system, arguments):
    model = tiny.build(system, **arguments)
    model.compile("sgd")
    with pytest.raises(ValueError, match=r'random weights.*frozen_stages=0, norm="batch"'):
        model.fit(tiny.dataset([tiny.batch()]), verbose=0)


def test_fit_refuses_data_of_another_number_of_classes(system):
    data = shapes(count=2, size=64, training=True, batch_size=2)
    wrong = system(data.num_classes + 1, **tiny.arguments(system))
    wrong.compile("sgd")
    found = f"{data.num_classes} categories.*num_classes={data.num_classes + 1}"
    with pytest.raises(ValueError, match=found):
        wrong.fit(data, verbose=0)


def test_predict_takes_a_bare_array(model):
    """All of its pixels are valid; `Images` that say so answer the same."""
    pixels = tiny.images(((64, 96),) * 2).pixels
    model.compile(run_eagerly=True)
    bare = model.predict(pixels, verbose=0)
    said = model.predict(pac_keras.Images(pixels, np.tile([[64, 96]], (2, 1))), verbose=0)
    assert np.any(bare.labels >= 0)
    for first, second in zip(bare, said, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)
