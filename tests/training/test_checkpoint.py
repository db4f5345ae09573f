"""Checkpoints: whole at any moment, and a run that continues from one is the run that went on."""

import json
import os
import re

import keras
import numpy as np
import pytest
from tiny_system import STEPS, TinyData, TinySystem, experiment

from pac_keras.training import callbacks, checkpoint
from pac_keras.training.interrupts import Interrupted
from pac_keras.training.schedule import make_optimizer

BEST = {"epoch": 2, "val_mask_AP": 0.5}


def tiny_model():
    keras.utils.set_random_seed(0)
    model = TinySystem(1, 2)
    model.compile(make_optimizer(experiment, STEPS))
    return model


def data():
    return TinyData(training=True, batch_size=2)


class Losses(keras.callbacks.Callback):
    """The running mean of the loss after each step."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_end(self, batch, logs=None):
        self.found.append(logs["loss"])


class StopAfter(keras.callbacks.Callback):
    """A signal after so many steps."""

    def __init__(self, steps, asked):
        super().__init__()
        self.left, self.asked = steps or 1000, asked

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            self.asked.append("SIGTERM")


def train(folder, model, state=None, *, stop_after=None, every=None, keep=2):
    """The losses of a run of four epochs."""
    asked, losses = [], Losses()
    saver = callbacks.Checkpoint(folder, STEPS, state, every=every, keep=keep, asked=asked)
    options = {"callbacks": [losses, StopAfter(stop_after, asked), saver], "verbose": 0}
    start = state.epoch if state else 0
    try:
        if state and state.epoch_step:
            rest = {"initial_epoch": start, "initial_step": state.epoch_step, "epochs": start + 1}
            model.fit(data(), **rest, **options)
            start += 1
        model.fit(data(), initial_epoch=start, epochs=4, **options)
    except Interrupted as message:
        assert "SIGTERM: stopped after epoch" in str(message) and "--resume" in str(message)
    return losses.found


def save(model, folder, step, best=None, keep=2):
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(step)
    state = checkpoint.state_of(model, step // STEPS, step % STEPS, STEPS, best)
    return checkpoint.save(model, folder, state, {"versions": "..."}, keep)


@pytest.mark.parametrize("stop_after", [1, STEPS - 1, STEPS, 2 * STEPS + 2])
def test_an_interrupted_run_continues_as_if_nothing_had_happened(tmp_path, stop_after):
    model = tiny_model()
    whole = train(tmp_path / "whole", model)
    first = train(tmp_path / "parts", tiny_model(), stop_after=stop_after)
    assert len(first) == stop_after
    path, reasons = checkpoint.newest(tmp_path / "parts")
    assert (path.name, reasons) == (f"step_{stop_after:07d}.keras", [])
    other = tiny_model()
    other.set_weights([weight + 1 for weight in other.get_weights()])
    state = checkpoint.restore(other, path)
    assert state[:4] == (*divmod(stop_after, STEPS), STEPS, stop_after)
    assert first + train(tmp_path / "parts", other, state) == whole
    assert len(set(whole)) == 4 * STEPS
    for one, another in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, another)


def test_checkpoints_within_an_epoch_and_how_many_stay(tmp_path):
    train(tmp_path, tiny_model(), every=3, keep=3)
    names = [f"step_{step:07d}" for step in (12, 15, 16)]
    expected = [f"{name}.{kind}" for name in names for kind in ("json", "keras")]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == expected
    assert checkpoint.read_state(tmp_path / "model.keras").epoch == 4  # nothing was evaluated
    state = checkpoint.restore(tiny_model(), tmp_path / "checkpoints" / "step_0000015.keras")
    assert state[:4] == (3, 3, STEPS, 15)


def test_the_manifest_tells_everything(tmp_path):
    path = save(tiny_model(), tmp_path, 6, BEST)
    told = json.loads(path.with_suffix(".json").read_text())
    assert told["bytes"] == path.stat().st_size and len(told["sha256"]) == 64
    assert (told["epoch"], told["epoch_step"], told["steps_per_epoch"]) == (1, 2, STEPS)
    assert (told["step"], told["best"], told["versions"]) == (6, BEST, "...")
    assert len(told["random_states"]) == 1 and told["means"] == [0.0, 0.0]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "has 1000 bytes, expected"),
        (flip, r"is damaged: sha256 \w+, expected"),
        (os.unlink, "is missing"),
        (lambda path: path.with_suffix(".json").write_text("{"), r"json is damaged: JSONDecode"),
        (lambda path: path.with_suffix(".json").write_text("{}"), r"json is damaged: KeyError"),
    ],
    ids=["cut off", "one bit", "missing", "manifest cut off", "manifest empty"],
)
def test_of_damaged_checkpoints_the_one_before_is_used(tmp_path, damage, reason):
    model = tiny_model()
    old, new = (save(model, tmp_path, step) for step in (4, 8))
    damage(new)
    path, (told,) = checkpoint.newest(tmp_path)
    assert path == old
    assert re.search(reason, told) and "step_0000008" in told
    damage(old)
    assert checkpoint.newest(tmp_path)[0] is None


def test_full_disk_keeps_the_old_files(tmp_path, monkeypatch):
    model = tiny_model()
    before = save(model, tmp_path, 4).read_bytes()

    def write_half(self, temporary):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TinySystem, "save", write_half)
    with pytest.warns(UserWarning, match=r"step_0000008.keras was not written.*No space left"):
        assert save(model, tmp_path, 8) is None
    assert checkpoint.newest(tmp_path)[0].read_bytes() == before
    assert len(os.listdir(tmp_path / "checkpoints")) == 2
    with (
        pytest.warns(UserWarning, match="was not written"),
        pytest.raises(OSError, match="the last checkpoint could not be written"),
    ):
        train(tmp_path, model)


@pytest.mark.parametrize("killed_at", [1, 2])
def test_killed_while_writing_leaves_the_old_files(tmp_path, monkeypatch, killed_at):
    model, calls = tiny_model(), []
    old, replace = save(model, tmp_path, 4), os.replace

    def killed(*paths):
        calls.append(paths)
        if len(calls) == killed_at:  # before the file's, or the manifest's new name
            raise KeyboardInterrupt
        replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            save(model, tmp_path, 8)
    assert checkpoint.newest(tmp_path) == (old, [])
    assert checkpoint.restore(tiny_model(), old).epoch == 1
    save(model, tmp_path, 12)
    names = [f"step_{step:07d}.{kind}" for step in (4, 12) for kind in ("json", "keras")]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == names  # what was left over is gone


def test_killed_before_the_best_one_was_copied(tmp_path):
    model = tiny_model()
    checkpoint.copy(save(model, tmp_path, 4), tmp_path / "model.keras")
    path = save(model, tmp_path, 8, BEST)
    again = callbacks.Checkpoint(tmp_path, STEPS, checkpoint.read_state(path))
    again.on_train_begin()
    assert checkpoint.read_state(tmp_path / "model.keras").epoch == 2


def test_foreign_files_are_no_checkpoints(tmp_path):
    model, path = tiny_model(), tmp_path / "a.keras"
    model.save(path)
    with pytest.raises(ValueError, match=r"a.keras: no training.json in it"):
        checkpoint.restore(model, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"a.keras is damaged"):
        checkpoint.restore(model, path)
    with pytest.raises(FileNotFoundError):
        checkpoint.restore(model, tmp_path / "no.keras")
