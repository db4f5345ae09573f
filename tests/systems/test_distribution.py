"""Two devices compute what one does."""

import numpy as np
import pytest
import tiny

pytest.importorskip("tensorflow")

import two_devices


@pytest.fixture(
    scope="module", params=tiny.traced(tiny.MaskRCNN), ids=lambda system: system.__name__
)
def results(request, tmp_path_factory):
    """{"<run>_<what>": {name: array}} of `two_devices.py`."""
    path = tmp_path_factory.mktemp("two_devices") / "results.npz"
    script = [two_devices.__file__, request.param.__name__, path]
    # TensorFlow's oneDNN convolutions, which only CPUs use, fail on a device without a picture.
    tiny.run_python(script, TF_ENABLE_ONEDNN_OPTS="0")
    found = {}
    with np.load(path) as arrays:
        for key, value in arrays.items():
            run, name = key.split(":")
            found.setdefault(run, {})[name] = value if value.shape else float(value)
    return found


def test_losses_of_unequal_shards(results):
    """One picture with one object, one with twelve: the sums are divided by common counts."""
    assert {"loss", "rpn_box"} < set(results["one_step"]) or {"loss", "box"} < set(
        results["one_step"]
    )
    assert any("mask" in name for name in results["one_step"])
    assert results["two_step"] == pytest.approx(results["one_step"], rel=1e-5, abs=1e-6)


def test_weights_after_a_step_of_unequal_shards(results):
    one, two = results["one_weights"], results["two_weights"]
    assert one.keys() == two.keys() and len(one) > 130
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-5, err_msg=name)
    moved = [np.abs(one[name] - results["before"][name]).max() for name in one]
    assert np.mean(np.greater(moved, 0)) > 0.9 and max(moved) > 1e-2


def test_the_step_was_clipped(results):
    """Otherwise the weights above would say nothing about clipping after the reduction."""
    norms = {}
    for run in ("one", "two"):
        steps = [
            (results["before"][name] - value) / two_devices.RATE
            - two_devices.DECAY * results["before"][name]
            for name, value in results[f"{run}_weights"].items()
            if "moving" not in name
        ]
        norms[run] = np.sqrt(sum(np.sum(np.square(step)) for step in steps))
    assert norms == pytest.approx({"one": two_devices.CLIP, "two": two_devices.CLIP}, rel=1e-3)


@pytest.mark.parametrize("what", ["fit", "evaluate"])
def test_history_and_evaluate_are_means_of_the_batches(results, what):
    """Shapes A, A, B, A; in `evaluate` also a last picture for which one device has no mate."""
    found, expected = results[f"two_{what}"], results[f"hand_{what}"]
    # RefineMask counts the pixels of a border, which a logit within rounding of 0 moves.
    assert found == pytest.approx(expected, rel=5e-4 if "mask56" in expected else 1e-4)


def test_predict_of_changing_shapes(results):
    found, expected = results["two_predict"], results["hand_predict"]
    assert expected["labels"].shape == (9, 10) and np.all(np.any(expected["labels"] >= 0, axis=1))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-3, err_msg=name)
