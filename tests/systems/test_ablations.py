"""Every row of the papers' ablation tables is one constructor argument away."""

import keras
import numpy as np
import pytest
import tiny

from pac_keras import (
    HTC,
    PAC,
    CascadeMaskRCNN,
    MaskRCNN,
    MaskScoringRCNN,
    RDSNet,
    RDSNetS,
    RefineMask,
    SCNet,
)

tf = pytest.importorskip("tensorflow")

ROWS = {
    # HTC's table 2: components.
    "T2 not interleaved": (HTC, {}, {"interleaved": False}),
    "T2 no mask information flow": (HTC, {}, {"mask_info_flow": False}),
    "T2 no semantic branch": (HTC, {}, {"semantic": "none"}),
    # Table 4: the stage whose mask is taken, with and without information flow.
    "T4 mask of stage 1": (HTC, {}, {"test_mask_stage": 1}),
    "T4 mask of stage 2": (HTC, {}, {"test_mask_stage": 2}),
    "T4 mask of stage 3": (HTC, {}, {"test_mask_stage": 3}),
    "T4 stage 1, no flow": (HTC, {"mask_info_flow": False}, {"test_mask_stage": 1}),
    "T4 stage 2, no flow": (HTC, {"mask_info_flow": False}, {"test_mask_stage": 2}),
    "T4 stage 3, no flow": (HTC, {"mask_info_flow": False}, {"test_mask_stage": 3}),
    # Table 5: who receives semantic features.
    "T5 semantic loss alone": (HTC, {}, {"semantic_fusion": ()}),
    "T5 boxes": (HTC, {}, {"semantic_fusion": ("box",)}),
    "T5 masks": (HTC, {}, {"semantic_fusion": ("mask",)}),
    # Table 6: weight of the semantic loss; 0.2 is the default.
    "T6 weight 0.5": (HTC, {}, {"semantic_loss_weight": 0.5}),
    "T6 weight 1": (HTC, {}, {"semantic_loss_weight": 1.0}),
    "T6 weight 2": (HTC, {}, {"semantic_loss_weight": 2.0}),
    "T6 weight 3": (HTC, {}, {"semantic_loss_weight": 3.0}),
    # PAC's table 1: the semantic branch and the mask quality, each added to HTC.
    "T1 PAC without its semantic branch": (PAC, {}, {"semantic": "htc"}),
    "T1 PAC without mask quality": (PAC, {}, {"mask_quality": False}),
    "T1 HTC": (PAC, {"semantic": "htc"}, {"mask_quality": False}),
    # Table 3: variants of both.
    "T3 ASPP": (PAC, {}, {"semantic": "aspp"}),
    "T3 no semantic branch": (PAC, {}, {"semantic": "none"}),
    "T3 quality sees mask features": (PAC, {"semantic": "htc"}, {"quality_info_flow": True}),
    "T3 simplified quality": (PAC, {"semantic": "htc"}, {"quality_convs": 2}),
    # What the paper leaves open.
    "decoder without convolutions": (PAC, {}, {"decoder_convs": 0}),
    "stacked features": (PAC, {}, {"roi_fusion": "concat"}),
    "boxes keep their scores": (PAC, {}, {"rescore": "segm"}),
    "PAC, not interleaved": (PAC, {}, {"interleaved": False}),
    "PAC, no flow": (PAC, {}, {"mask_info_flow": False}),
    "PAC, mask of stage 3": (PAC, {}, {"test_mask_stage": 3}),
    "PAC, boxes": (PAC, {}, {"semantic_fusion": ("box",)}),
    "PAC, weight 0.2": (PAC, {}, {"semantic_loss_weight": 0.2}),
    # SCNet's tables 2 and 3: sample consistency, relay, context; "none" is Cascade with a branch.
    "SC naive": (SCNet, {}, {"sample_consistency": "naive"}),
    "SC none": (SCNet, {}, {"sample_consistency": "none"}),
    "SC none, no relay": (SCNet, {"sample_consistency": "none"}, {"feature_relay": False}),
    "SC none, no context": (SCNet, {"sample_consistency": "none"}, {"global_context": False}),
    "SCNet, no relay": (SCNet, {}, {"feature_relay": False}),
    "SCNet, no context": (SCNet, {}, {"global_context": False}),
    # Table 4: relay in other systems; table 5: weight of the context's loss.
    "Mask R-CNN, relay": (MaskRCNN, {}, {"feature_relay": True}),
    "Cascade, relay": (CascadeMaskRCNN, {}, {"feature_relay": True}),
    "T5 context without loss": (SCNet, {}, {"global_context_weight": 0.0}),
    "T5 context, weight 1": (SCNet, {}, {"global_context_weight": 1.0}),
    "T5 context, weight 2": (SCNet, {}, {"global_context_weight": 2.0}),
    "T5 context, weight 5": (SCNet, {}, {"global_context_weight": 5.0}),
    "SCNet, masks on b3": (SCNet, {}, {"mask_rois": "b3"}),
    "SCNet, plain convolutions": (SCNet, {}, {"residual_blocks": False}),
    "SCNet, semantic weight 1": (SCNet, {}, {"semantic_loss_weight": 1.0}),
    # RefineMask's tables 5 to 9: stages, fusion, semantic head, supervision, border.
    "1 stage": (RefineMask, {}, {"num_stages": 1}),
    "2 stages": (RefineMask, {}, {"num_stages": 2}),
    "4 stages": (RefineMask, {"channels": 64}, {"num_stages": 4}),
    "fusion 1x1": (RefineMask, {}, {"fusion": "conv1x1"}),
    "fusion 3x3": (RefineMask, {}, {"fusion": "conv3x3"}),
    "fusion parallel": (RefineMask, {}, {"fusion": "parallel"}),
    "no semantic head": (RefineMask, {}, {"semantic_head": False}),
    "whole masks": (RefineMask, {}, {"boundary_aware": False}),
    "last scale alone": (RefineMask, {"boundary_aware": False}, {"deep_supervision": False}),
    "border of width 1": (RefineMask, {}, {"boundary_width": 1}),
    "border of width 3": (RefineMask, {}, {"boundary_width": 3}),
    # The later head, LVIS's and Cityscapes' settings.
    "simple head": (RefineMask, {}, {"variant": "simple"}),
    "class-agnostic last scale": (RefineMask, {}, {"class_agnostic_last": True}),
    "smooth L1": (RefineMask, {}, {"box_error": "smooth_l1"}),
    "box losses once": (RefineMask, {}, {"box_loss_weight": 1.0}),
    # RDSNet's table 2: masks beside boxes; table 4: what masks do to boxes; figure 5: the prior.
    "T2 boxes alone": (RDSNet, {}, {"mask_loss_weight": 0.0}),
    "T4 no refinement": (RDSNet, {}, {"box_refinement": "none"}),
    "T4 direct": (RDSNet, {}, {"box_refinement": "direct"}),
    "wider prior": (RDSNet, {}, {"prior_width": 0.1}),
    "no background vector": (RDSNet, {}, {"rep_background": False}),
    "other vectors": (RDSNet, {}, {"rep_channels": 8}),
    "trained on whole pictures": (RDSNet, {}, {"train_expand": None}),
    "boxes around surer pixels": (RDSNet, {"box_refinement": "direct"}, {"mask_threshold": 0.5}),
    "finer masks": (RDSNet, {}, {"mask_side": 56}),
    "mmdetection 1.x": (RDSNet, {}, {"legacy": True}),
    # Table 3, from the last row to the first.
    "T3 boxes not enlarged at test": (RDSNetS, {}, {"test_expand": 1.0}),
    "T3 all background": (RDSNetS, {}, {"ohem": False}),
    "T3 boxes not enlarged": (RDSNetS, {"ohem": False}, {"train_expand": 1.0}),
    "T3 linear combination": (
        RDSNetS,
        {"ohem": False, "train_expand": 1.0, "test_expand": 1.0},
        {"combine": "linear"},
    ),
    "RDSNet_s, refined boxes": (RDSNetS, {"box_refinement": "none"}, {"box_refinement": "bayes"}),
    "RDSNet_s, no semantic branch": (RDSNetS, {}, {"semantic_branch": False}),
    # Baselines: interleaved execution (table 3 of HTC), and MS R-CNN's switches.
    "Mask R-CNN, interleaved": (MaskRCNN, {}, {"interleaved": True}),
    "Cascade, interleaved": (CascadeMaskRCNN, {}, {"interleaved": True}),
    "MS R-CNN, boxes rescored": (MaskScoringRCNN, {}, {"rescore": "both"}),
    "MS R-CNN, logits": (MaskScoringRCNN, {}, {"quality_threshold": "logit"}),
}
# One or two rows of each system; the others: `python -m pytest -m slow tests/systems`.
FAST = {
    "T2 no semantic branch",
    "T1 PAC without mask quality",
    "T3 ASPP",
    "SC naive",
    "fusion 1x1",
    "simple head",
    "T4 direct",
    "T3 linear combination",
    "Cascade, relay",
    "Mask R-CNN, interleaved",
    "MS R-CNN, boxes rescored",
}
BATCH = tiny.batch((3,), ((64, 96),))
_REFERENCES = {}


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=[pytest.mark.slow] * (row not in FAST)) for row in ROWS]
)
def test_switch_changes_something(row):
    system, base, switch = ROWS[row]
    assert len(switch) == 1
    reference, expected = _reference(system, base)
    model = _build(system, base | switch)
    same_weights = [v.shape for v in model.weights] == [v.shape for v in reference.weights]
    if same_weights:
        model.set_weights(expected["weights"])
        found = _results(model)
        assert _differ(found["detections"], expected["detections"]) or _differ(
            found["losses"], expected["losses"]
        )
    else:
        assert model.count_params() != reference.count_params()
    before = [np.array(v) for v in model.get_weights()]
    model.compile(keras.optimizers.SGD(0.01), clip_norm=10.0)
    logs = model.train_step(tiny.tensors(BATCH))
    assert np.isfinite(float(logs["loss"]))
    after = model.get_weights()
    assert all(np.all(np.isfinite(value)) for value in after)
    moved = [np.any(a != b) for a, b in zip(after, before, strict=True)]
    assert np.mean(moved) > 0.8


def _build(system, arguments):
    # Samples that hold more than the objects' own boxes, which are the same at every stage.
    more = {"roi_samples": 64} if system in tiny.TWO_STAGE else {}
    model = tiny.fix_proposals(tiny.build(system, **(more | arguments)), count=96)
    for stage in tiny.stages(model):  # fresh heads hardly move a box: all stages would see the same
        kernel = stage.head.deltas.kernel
        kernel.assign(100.0 * kernel)
    if system is SCNet:  # whose masks see the last stage's regions, which hardly reach its 0.7
        model.stages[-1].iou_threshold = 0.5
    return model


def _reference(system, base):
    """The model that the row changes, and what it answers; built once for all rows."""
    key = system, *base.items()
    if key not in _REFERENCES:
        model = _build(system, base)
        weights = model.get_weights()  # before the losses move the batch norms' statistics
        _REFERENCES[key] = model, _results(model) | {"weights": weights}
    return _REFERENCES[key]


def _results(model):
    return {
        "detections": tiny.numbers(model(tiny.tensors(BATCH.images))),
        "losses": tiny.loss_values(model, BATCH),
    }


def _differ(found, expected):
    return found.keys() != expected.keys() or any(
        np.shape(found[name]) != np.shape(expected[name])
        or not np.allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)
        for name in expected
    )


@pytest.mark.slow
def test_the_same_arguments_change_nothing():
    """What the rows above are measured against: the comparison sees no difference of its own."""
    for system in tiny.SYSTEMS:
        reference, expected = _reference(system, {})
        model = _build(system, {})
        model.set_weights(expected["weights"])
        found = _results(model)
        assert model.count_params() == reference.count_params()
        assert not _differ(found["detections"], expected["detections"])
        assert not _differ(found["losses"], expected["losses"])
