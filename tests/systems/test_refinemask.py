"""Which of RefineMask's scales become its masks."""

import numpy as np
import pytest
import tiny
from keras import ops

from pac_keras import RefineMask
from pac_keras.heads.refine_mask import merge_scales

pytest.importorskip("tensorflow")


@pytest.mark.parametrize("boundary_aware", [True, False])
def test_masks_are_the_merged_scales_or_the_last_one(boundary_aware, monkeypatch):
    model = tiny.fix_proposals(tiny.build(RefineMask, boundary_aware=boundary_aware))
    answers, predict = [], model.mask_head.predict
    spy = lambda *given: answers.append(predict(*given)) or answers[-1]  # noqa: E731
    monkeypatch.setattr(model.mask_head, "predict", spy)
    found = tiny.numbers(model(tiny.tensors(tiny.images())))
    (scales,) = answers
    merged, last = (
        ops.convert_to_numpy(ops.sigmoid(x)) for x in (merge_scales(scales), scales[-1])
    )
    assert np.abs(merged - last).max() > 0.01
    valid = found["labels"].ravel() >= 0
    masks = found["masks"].reshape(-1, 112, 112)
    assert valid.any()
    np.testing.assert_allclose(masks[valid], (merged if boundary_aware else last)[valid], atol=1e-6)
    assert not masks[~valid].any()
