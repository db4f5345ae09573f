import csv
import dataclasses
import io
import json
import math
import os

import keras
import numpy as np
import pytest
from tiny_system import STEPS, TinyData, TinySystem, experiment, metrics

from pac_keras.training import callbacks, checkpoint
from pac_keras.training.schedule import make_optimizer


@pytest.fixture
def average_precisions(monkeypatch):
    """AP that the evaluations answer, one after the other."""
    answers = []
    monkeypatch.setattr(
        callbacks, "evaluate_dataset", lambda _, __, boundary: answer(answers.pop(0), boundary)
    )
    return answers


def answer(mask_ap, boundary):
    found = metrics(mask_ap)
    if boundary:
        found["boundary"] = {"AP": mask_ap / 4, "F_1px": mask_ap + 0.1, "F_3px": mask_ap + 0.2}
    return found


def data():
    return TinyData(training=True, batch_size=2)


def tiny_model():
    keras.utils.set_random_seed(0)
    model = TinySystem(1, 2)
    model.compile(make_optimizer(experiment, STEPS))
    return model


def run(folder, model=None, *, epochs=4, state=None, every=1, boundary=True):
    model = model or tiny_model()
    start = state.epoch if state else 0
    parts = [
        callbacks.StopOnNaN(),
        callbacks.Evaluation(data(), folder, epochs, every, pictures=0, boundary=boundary),
        keras.callbacks.CSVLogger(folder / "log.csv", append=state is not None),
        callbacks.Checkpoint(folder, state),
    ]
    history = model.fit(data(), initial_epoch=start, epochs=epochs, callbacks=parts, verbose=0)
    return model, history.history


def test_average_precision_reaches_history_log_and_metrics(tmp_path, average_precisions):
    average_precisions += [0.2, 0.4]
    _, history = run(tmp_path, epochs=3, every=2)  # evaluated: epochs 2 and 3, the last one
    assert history["val_mask_AP"] == pytest.approx([math.nan, 0.2, 0.4], nan_ok=True)
    assert history["val_box_AP"] == pytest.approx([math.nan, 0.1, 0.2], nan_ok=True)
    assert history["val_boundary_AP"] == pytest.approx([math.nan, 0.05, 0.1], nan_ok=True)
    assert history["val_F_1px"] == pytest.approx([math.nan, 0.3, 0.5], nan_ok=True)
    assert history["val_F_3px"] == pytest.approx([math.nan, 0.4, 0.6], nan_ok=True)
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [row["val_mask_AP"] for row in rows] == ["nan", "0.2", "0.4"]
    assert all(math.isfinite(float(row["loss"])) for row in rows)
    assert json.loads((tmp_path / "metrics.json").read_text()) == answer(0.4, boundary=True)


def test_without_boundary_its_columns_are_empty(tmp_path, average_precisions):
    average_precisions += [0.2]
    _, history = run(tmp_path, epochs=1, boundary=False)
    assert history["val_mask_AP"] == [0.2]
    for name in ("val_boundary_AP", "val_F_1px", "val_F_3px"):
        assert history[name] == pytest.approx([math.nan], nan_ok=True)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics(0.2)


@pytest.mark.parametrize("boundary", [True, False])
def test_the_experiment_decides_about_evaluations(tmp_path, boundary):
    changed = dataclasses.replace(experiment, evaluate_every=3, pictures=5, boundary=boundary)
    made = callbacks.standard_callbacks(changed, tmp_path, STEPS, data())
    (found,) = (one for one in made if isinstance(one, callbacks.Evaluation))
    assert (found.every, found.pictures, found.boundary) == (3, 5, boundary)


def test_best_and_last_checkpoint(tmp_path, average_precisions):
    average_precisions += [0.2, 0.5, 0.5, 0.3]
    model, _ = run(tmp_path)
    best = checkpoint.read_state(tmp_path / "model.keras")
    last = checkpoint.read_state(tmp_path / "last.keras")
    assert (best.epoch, best.step, last.epoch, last.step) == (3, 3 * STEPS, 4, 4 * STEPS)
    assert best.best == last.best == {"epoch": 3, "val_mask_AP": 0.5}
    loaded = keras.models.load_model(tmp_path / "last.keras")
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert sorted(os.listdir(tmp_path)) == ["last.keras", "log.csv", "metrics.json", "model.keras"]


def test_model_file_is_the_last_epoch_without_evaluation(tmp_path):
    tiny_model().fit(data(), epochs=2, verbose=0, callbacks=[callbacks.Checkpoint(tmp_path)])
    assert checkpoint.read_state(tmp_path / "model.keras").epoch == 2


def test_resumed_run_equals_an_uninterrupted_one(tmp_path, average_precisions):
    average_precisions += [0.1, 0.2, 0.3, 0.4] * 2
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole, history = run(tmp_path / "whole")
    _, first = run(tmp_path / "parts", epochs=2)
    parts = tiny_model()
    parts.set_weights([weight + 1 for weight in parts.get_weights()])
    state = checkpoint.restore(parts, tmp_path / "parts" / "last.keras")
    assert state[:3] == (2, 2 * STEPS, {"epoch": 2, "val_mask_AP": 0.2})
    parts, second = run(tmp_path / "parts", parts, state=state)
    assert first["loss"] + second["loss"] == history["loss"]  # same data, noise, rate, momentum
    assert len(set(history["loss"])) == 4
    for one, other in zip(parts.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    logs = [(tmp_path / part / "log.csv").read_text() for part in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    model = tiny_model()
    path = tmp_path / "last.keras"
    assert checkpoint.save(model, path, epoch=1)
    before = path.read_bytes()

    def write_half(self, temporary):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TinySystem, "save", write_half)
    with pytest.warns(UserWarning, match=r"last.keras was not written.*No space left"):
        assert not checkpoint.save(model, path, epoch=2)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.keras"]


def test_killed_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    model = tiny_model()
    path = tmp_path / "last.keras"
    assert checkpoint.save(model, path, epoch=1)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(model, path, epoch=2)
    assert checkpoint.restore(tiny_model(), path).epoch == 1
    assert checkpoint.save(model, path, epoch=2)
    assert os.listdir(tmp_path) == ["last.keras"]  # what was left over is gone


def test_killed_between_the_two_files(tmp_path):
    model = tiny_model()
    best = {"epoch": 2, "val_mask_AP": 0.5}
    assert checkpoint.save(model, tmp_path / "model.keras", 1, {"epoch": 1, "val_mask_AP": 0.1})
    assert checkpoint.save(model, tmp_path / "last.keras", 2, best)
    again = callbacks.Checkpoint(tmp_path, checkpoint.read_state(tmp_path / "last.keras"))
    again.on_train_begin()
    assert checkpoint.read_state(tmp_path / "model.keras").epoch == 2


def test_damaged_and_foreign_checkpoints(tmp_path):
    model = tiny_model()
    path = tmp_path / "last.keras"
    model.save(path)
    with pytest.raises(ValueError, match=r"last.keras: no training.json in it"):
        checkpoint.restore(model, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last.keras is damaged .* model.keras"):
        checkpoint.restore(model, path)
    with pytest.raises(FileNotFoundError):
        checkpoint.restore(model, tmp_path / "no.keras")


def test_nan_stops_with_every_loss():
    stop = callbacks.StopOnNaN()
    stop.on_epoch_begin(2)
    stop.on_train_batch_end(6, {"loss": 1.0})
    with pytest.raises(
        FloatingPointError, match=r"epoch 3, step 7: .*loss nan  rpn 0.5.*clip_norm"
    ):
        stop.on_train_batch_end(6, {"loss": math.nan, "rpn": 0.5})


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_report_of_steps_and_epochs(stream, monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: seconds[0])
    report = callbacks.Report(epochs=2, steps=3, stream=stream)
    report.on_train_begin()
    report.on_epoch_begin(0)
    for step in range(3):
        seconds[0] += 70
        report.on_train_batch_end(step, {"loss": 1.5})
    report.on_epoch_end(0, {"loss": 1.25, "val_mask_AP": math.nan, "val_F_1px": math.nan})
    text = stream.getvalue()
    # 70 s a step: after the second of six, 280 s are left
    assert "epoch 1/2  step 2/3  loss 1.5  elapsed 0:02:20, left 0:04:40" in text
    assert text.endswith("epoch 1/2  loss 1.25  elapsed 0:03:30, left 0:03:30\n")
    assert text.count("\n") == (1 if stream.isatty() else 4)
    report.on_epoch_end(1, {"val_mask_AP": 0.5, "val_boundary_AP": 0.25, "val_F_3px": 0.75})
    shown = "epoch 2/2  val_mask_AP 0.5  val_boundary_AP 0.25  val_F_3px 0.75  elapsed"
    assert shown in stream.getvalue()
    assert callbacks.duration(3_725.4) == "1:02:05"
