"""The SavedModel of a one-stage system answers what the model answers, in a process of its own."""

import keras
import numpy as np
import pytest
import saved_model
from pictures import encoded, noise

from pac_keras import RDSNet, RDSNetS, predict
from pac_keras.data import Preprocessing

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a SavedModel is TensorFlow's format"
)

SIZES = {"backbone": "resnet18", "base_channels": 8, "channels": 8, "rep_channels": 4}
SIZES |= {"frozen_stages": 0, "norm": "batch", "pre_nms": 50, "max_detections": 10, "mask_side": 56}
OWN = {RDSNet: {"norm_groups": 4, "num_convs": 2, "score_threshold": 0.001}}
OWN |= {RDSNetS: {"box_refinement": "bayes"}}


@pytest.mark.slow
@pytest.mark.parametrize("system", OWN, ids=lambda system: system.__name__)
def test_a_fresh_process_answers_as_predict_does(system, tmp_path):
    keras.utils.set_random_seed(1)
    model = system(5, **SIZES, **OWN[system])
    square = system is RDSNetS
    model.preprocessing = Preprocessing(64, 64 if square else 96, keep_ratio=not square)
    saved_model.write(model, tmp_path / "out")
    images = [noise(50, 90), noise(131, 70)]
    answers = saved_model.answers_of_fresh_process(
        tmp_path / "out", [encoded(image, "PNG") for image in images], images
    )
    for index, image in enumerate(images):
        expected = predict(model, image, score_threshold=0.0)
        assert len(expected.labels) == 10 and 0 < expected.masks.mean() < 0.95
        got = {name: answers[f"images/{index}/{name}"] for name in ("boxes", "labels", "masks")}
        np.testing.assert_array_equal(got["labels"], expected.labels)
        np.testing.assert_allclose(got["boxes"], expected.boxes, atol=1e-3)
        masks = np.unpackbits(got["masks"], axis=-1, count=image.shape[1])
        assert np.mean(masks != expected.masks) < 1e-3
