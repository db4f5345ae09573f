import json
import subprocess
import sys

import keras
import pytest

from pac_keras.training.experiment import Experiment
from pac_keras.training.schedule import Cosine, StepDecay, make_optimizer


def rates(schedule, *steps):
    return [float(schedule(step)) for step in steps]


def test_step_decay_by_hand():
    schedule = StepDecay(0.02, [1000, 1500], warmup_steps=500, warmup_factor=0.001)
    # warm-up: 0.02 * (0.001 + 0.999 * step / 500)
    assert rates(schedule, 0, 250, 499, 500, 999) == pytest.approx(
        [0.00002, 0.01001, 0.01996004, 0.02, 0.02]
    )
    assert rates(schedule, 1000, 1499, 1500, 9000) == pytest.approx([0.002, 0.002, 0.0002, 0.0002])


def test_cosine_by_hand():
    schedule = Cosine(1.0, 110, warmup_steps=10, warmup_factor=0.1)
    # the cosine starts where the warm-up ends: half of it at step 60, 0 from step 110 on
    assert rates(schedule, 0, 5, 10) == pytest.approx([0.1, 0.55, 1.0])
    assert rates(schedule, 60, 85, 110, 200) == pytest.approx([0.5, 0.1464466, 0.0, 0.0], abs=1e-6)


def test_no_warmup_starts_at_the_full_rate():
    assert rates(StepDecay(0.02, [], warmup_steps=0), 0, 1) == pytest.approx([0.02, 0.02])
    assert rates(Cosine(0.02, 100, warmup_steps=0), 0) == pytest.approx([0.02])


@pytest.mark.parametrize("schedule", [StepDecay(0.3, [4, 6], 0.5, 3, 0.1), Cosine(0.3, 8, 3, 0.1)])
def test_schedules_survive_serialisation(schedule):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    steps = range(10)
    assert rates(again, *steps) == rates(schedule, *steps)
    assert len(set(rates(schedule, *steps))) > 4


def experiment(**fields):
    return Experiment(model=dict, train=dict, valid=None, **fields)


def test_sgd_of_the_papers():
    optimizer = make_optimizer(experiment(milestones=(16, 19)), steps_per_epoch=7330)
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert optimizer.momentum == 0.9
    assert optimizer.weight_decay is None  # the system adds L2 to the gradient
    schedule = optimizer._learning_rate
    edges = (16 * 7330 - 1, 16 * 7330, 19 * 7330)
    assert rates(schedule, *edges) == pytest.approx([0.02, 0.002, 0.0002])


def test_adamw_carries_its_weight_decay():
    fields = {"optimizer": "adamw", "schedule": "cosine", "weight_decay": 0.05, "epochs": 2}
    optimizer = make_optimizer(experiment(warmup_steps=0, **fields), steps_per_epoch=10)
    assert isinstance(optimizer, keras.optimizers.AdamW)
    assert optimizer.weight_decay == 0.05
    assert rates(optimizer._learning_rate, 10) == pytest.approx([0.01])


def test_import_pac_keras_is_enough_to_load_a_schedule():
    config = json.dumps(keras.saving.serialize_keras_object(StepDecay(0.02, [10])))
    script = (
        "import json, sys, keras, pac_keras\n"
        "schedule = keras.saving.deserialize_keras_object(json.loads(sys.argv[1]))\n"
        "assert schedule.boundaries == (10,), schedule.boundaries\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, config], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
