"""JAX computes what TensorFlow does: one `.keras` file, one batch, fixed proposals and samples."""

import keras
import numpy as np
import other_backend
import pytest
import tiny

pytest.importorskip("jax")
pytest.importorskip("tensorflow")


@pytest.fixture(
    scope="module", params=tiny.traced(tiny.MaskRCNN), ids=lambda system: system.__name__
)
def results(request, tmp_path_factory):
    """{backend: {"detections", "losses", "weights": {name: array}}}, and "before"."""
    folder = tmp_path_factory.mktemp("backends")
    model = tiny.build(request.param, seed=3)
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), clip_norm=1.0, run_eagerly=True)
    model.save(folder / "model.keras")
    batch = tiny.batch((3, 2))
    arrays = batch.images._asdict() | batch.ground_truth._asdict()
    np.savez(folder / "batch.npz", **arrays)
    variables = [v for v in model.weights if "seed" not in v.path]
    found = {
        "before": {f"{i} {v.name}": keras.ops.convert_to_numpy(v) for i, v in enumerate(variables)}
    }
    for backend in ("tensorflow", "jax"):
        files = [folder / "model.keras", folder / "batch.npz", folder / f"{backend}.npz"]
        # Most of the time is XLA's, which has nothing to gain from a single step.
        script = [other_backend.__file__, *files]
        tiny.run_python(script, backend=backend, JAX_DISABLE_MOST_OPTIMIZATIONS="1")
        with np.load(files[-1]) as arrays:
            assert arrays["backend"] == backend
            found[backend] = parts = {}
            for key in arrays.files[1:]:
                part, name = key.split(":")
                parts.setdefault(part, {})[name] = arrays[key]
    return found


def test_losses_agree(results):
    expected, found = results["tensorflow"]["losses"], results["jax"]["losses"]
    assert found.keys() == expected.keys()
    assert len(expected) >= 4 and all(value > 0 for value in expected.values())
    for name in expected:
        assert found[name] == pytest.approx(expected[name], rel=1e-3), name


def test_detections_agree(results):
    expected, found = results["tensorflow"]["detections"], results["jax"]["detections"]
    assert np.sum(expected["labels"] >= 0) >= 10
    np.testing.assert_array_equal(found["labels"], expected["labels"])
    for name in ("boxes", "scores", "box_scores", "masks", "mask_frames"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-3, err_msg=name)


def test_weights_after_a_step_agree(results):
    expected, found = results["tensorflow"]["weights"], results["jax"]["weights"]
    assert expected.keys() == found.keys() == results["before"].keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4, rtol=0, err_msg=name)
    step = max(np.abs(expected[name] - results["before"][name]).max() for name in expected)
    assert step > 1e-3
