"""Several devices compute what one does.

python -m pytest -n 0 -m slow tests/systems/test_distribution.py -k five_steps
"""

import json
import subprocess
import sys

import five_steps
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


def test_a_checkpoint_of_two_devices_is_read_back(results):
    for name, value in results["two_weights"].items():
        np.testing.assert_array_equal(results["two_restored"][name], value, err_msg=name)


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


FIVE = [pytest.param(name, marks=pytest.mark.slow) for name in ("PAC", "RDSNet")]


def run_five_steps(name, folder, count, **environment):
    """The arrays that `five_steps.py` writes."""
    path = folder / f"{count}.npz"
    script = [five_steps.__file__, name, path, count]
    tiny.run_python(script, TF_ENABLE_ONEDNN_OPTS="0", timeout=1800, **environment)
    with np.load(path) as arrays:
        return dict(arrays)


def assert_equal_steps(found, expected):
    assert found.keys() == expected.keys() and len(expected) > 200
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    losses = expected["loss:loss"]
    assert losses.shape == (5,) and losses[4] < losses[0] - 0.02  # the weights have moved


@pytest.fixture(scope="module", params=FIVE)
def one_device(request, tmp_path_factory):
    """(name of a system, its five steps on one device)."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, run_five_steps(request.param, folder, 1)


@pytest.mark.parametrize("count", [2, 4])
def test_five_steps_on_several_devices(one_device, tmp_path, count):
    """Losses, weights, momenta and moving averages; with four devices each has one picture."""
    name, expected = one_device
    assert_equal_steps(run_five_steps(name, tmp_path, count), expected)


def test_five_steps_of_two_workers(one_device, tmp_path, free_ports):
    """Two processes of `tf.distribute.MultiWorkerMirroredStrategy`, each with its own pictures."""
    name, expected = one_device
    for found in of_two_workers(name, tmp_path, free_ports(2)):
        assert_equal_steps(found, expected)


def of_two_workers(name, folder, ports):
    """The arrays that each of two workers on this machine writes."""
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    paths = [folder / f"worker{index}.npz" for index in range(2)]
    processes = []
    for index, path in enumerate(paths):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        environment = tiny.environment(TF_CONFIG=config, TF_ENABLE_ONEDNN_OPTS="0")
        command = [sys.executable, five_steps.__file__, name, str(path), "2"]
        processes.append(subprocess.Popen(command, env=environment))
    assert [process.wait(1800) for process in processes] == [0, 0]
    return [dict(np.load(path)) for path in paths]


@pytest.mark.slow
def test_five_steps_on_two_devices_of_jax(one_device, tmp_path):
    """`keras.distribution.DataParallel` over two host devices, against one."""
    pytest.importorskip("jax")
    name, _ = one_device
    flag = "--xla_force_host_platform_device_count="
    (tmp_path / "one").mkdir()
    expected = run_five_steps(name, tmp_path / "one", 1, backend="jax", XLA_FLAGS=f"{flag}1")
    found = run_five_steps(name, tmp_path, 2, backend="jax", XLA_FLAGS=f"{flag}2")
    assert_equal_steps(found, expected)
