import csv
import dataclasses
import io
import json
import math

import keras
import pytest
from tiny_system import STEPS, TinyData, TinySystem, experiment, metrics

from pac_keras.training import callbacks
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
        callbacks.Checkpoint(folder, STEPS, state),
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
    made = callbacks.standard_callbacks(changed, tmp_path, data(), data())
    (found,) = (one for one in made if isinstance(one, callbacks.Evaluation))
    assert (found.every, found.pictures, found.boundary) == (3, 5, boundary)


def test_nan_stops_with_every_loss():
    stop = callbacks.StopOnNaN(data())
    stop.on_epoch_begin(2)
    stop.on_train_batch_end(2, {"loss": 1.0})
    message = r"epoch 3, step 4: .*loss nan  rpn 0.5; image ids \[23, 23\].*clip_norm"
    with pytest.raises(FloatingPointError, match=message):
        stop.on_train_batch_end(3, {"loss": math.nan, "rpn": 0.5})


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
