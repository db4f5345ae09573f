"""The systems at the papers' size."""

import numpy as np
import pytest
import tiny

import pac_keras

COUNTS = {
    ("HTC", "resnet50"): 80_258_293,
    ("HTC", "resnet18"): 67_189_493,
    ("HTC", "resnext101_32x4d"): 98_878_965,
    ("MaskRCNN", "resnet18"): 31_327_536,  # the baselines' others: tests/weights/test_layout.py
    ("CascadeMaskRCNN", "resnet18"): 64_255_806,
    ("RefineMask", "resnet18"): 35_091_259,
    ("PAC", "resnet50"): 98_498_885,
    ("PAC", "resnet18"): 85_430_085,
    ("PAC", "resnext101_32x4d"): 117_119_557,
}
FAST = {("RefineMask", "resnet18"), ("HTC", "resnet18"), ("PAC", "resnet18"), ("PAC", "resnet50")}
MOST_MEMORY = 24  # GiB

FULL_SIZE_STEP = """
import resource, sys, time
import keras, numpy as np
import pac_keras, tiny

start = time.time()
model = getattr(pac_keras, sys.argv[1])(80, "resnet50", frozen_stages=0, norm="batch")
batch = tiny.batch((7,), ((800, 1333),), (800, 1344))
found = model.predict(batch.images, verbose=0)
assert found.masks.shape[:2] == (1, 100) and np.any(found.labels >= 0)
print("predict", round(time.time() - start), "s")
model.compile(keras.optimizers.SGD(0.01, momentum=0.9), clip_norm=10.0)
history = model.fit(tiny.dataset([batch]), steps_per_epoch=1, verbose=0).history
assert np.all(np.isfinite(list(history.values()))), history
print("step", round(time.time() - start), "s")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.parametrize(
    ("system", "backbone"),
    [pytest.param(*key, marks=[] if key in FAST else [pytest.mark.slow]) for key in COUNTS],
)
def test_number_of_parameters(system, backbone):
    """Without the moving statistics of batch norms, as PyTorch counts them."""
    model = getattr(pac_keras, system)(80, backbone)
    counted = [v for v in model.weights if "moving" not in v.path and "seed" not in v.path]
    assert sum(int(np.prod(v.shape)) for v in counted) == COUNTS[system, backbone]


@pytest.mark.slow
@pytest.mark.parametrize("system", ["HTC", "SCNet", "RefineMask", "PAC"])
def test_full_size_step_fits_into_memory(system):
    pytest.importorskip("tensorflow")
    output = tiny.run_python(["-c", FULL_SIZE_STEP, system], timeout=1800)
    print(output)
    assert 1 < float(output.split()[-1]) < MOST_MEMORY


OBJECTS_STEP = """
import pathlib, sys
import keras, numpy as np
import pac_keras, tiny

system, height, width, objects = sys.argv[1], *map(int, sys.argv[2:])
keras.utils.set_random_seed(0)
model = getattr(pac_keras, system)(80, "resnet50", frozen_stages=0, norm="batch")
batch = tiny.batch((objects,), ((height, width),), (height, width))
model.compile(keras.optimizers.SGD(0.001), clip_norm=10.0)
history = model.fit(tiny.dataset([batch]), steps_per_epoch=1, verbose=0).history
assert np.all(np.isfinite(list(history.values()))), history
assert np.any(model.predict(batch.images, verbose=0).labels >= 0)
(line,) = (x for x in pathlib.Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
print(int(line.split()[1]) / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [(512, 512), (800, 1344)])
@pytest.mark.parametrize("system", ["MaskRCNN", "RDSNet"])
def test_a_thousand_objects_cost_little_memory(system, size):
    """Training step and prediction: MB above ten objects."""
    pytest.importorskip("tensorflow")
    command = ["-c", OBJECTS_STEP, system, *size]
    few, many = (float(tiny.run_python([*command, n]).split()[-1]) for n in (10, 1000))
    print(system, size, few, many)
    assert many - few <= 200
