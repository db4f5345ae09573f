import csv
import importlib.util
import json
import os
import pathlib
import signal
import sys

import keras
import numpy as np
import pytest
import tiny_system

from pac_keras.training import callbacks, checkpoint

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = pathlib.Path(tiny_system.__file__)


@pytest.fixture
def train(monkeypatch, capsys):
    """train.py as a function of its command line; the AP of evaluation k is in its `answers`."""
    spec = importlib.util.spec_from_file_location("train_script", ROOT / "train.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    answers = []
    for module in (callbacks, script):
        monkeypatch.setattr(
            module, "evaluate_dataset", lambda *_: tiny_system.metrics(answers.pop(0))
        )

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        script.main()
        return capsys.readouterr().out

    call.answers = answers
    return call


def test_run_folder_of_a_whole_run(train, tmp_path):
    folder = tmp_path / "run"
    train.answers += [0.1, 0.3, 0.2, 0.3]  # the last one: model.keras is evaluated at the end
    printed = train(CONFIG, "--output", folder, "--epochs", "3", "--seed=7")
    assert "model.keras: epoch 2, mask AP 0.3000 on tiny" in printed
    assert "epoch 3/3  loss" in printed
    assert not train.answers
    assert json.loads((folder / "metrics.json").read_text()) == tiny_system.metrics(0.3)
    config = json.loads((folder / "config.json").read_text())
    assert (config["epochs"], config["seed"], config["batch_size"]) == (3, 7, 2)
    assert (folder / "config.py").read_text() == CONFIG.read_text()
    assert json.loads((folder / "versions.json").read_text())["packages"]["keras"]
    assert checkpoint.read_state(folder / "model.keras").epoch == 2
    path, reasons = checkpoint.newest(folder)
    assert (checkpoint.read_state(path).epoch, reasons) == (3, [])
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["settings"]["seed"] == 7 and manifest["versions"]["packages"]["keras"]
    assert len(list(csv.DictReader((folder / "log.csv").open()))) == 3
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    events = list((folder / "tensorboard").rglob("events.*"))
    assert bool(events) == (keras.backend.backend() == "tensorflow")
    assert ("TensorBoard logs are written on the TensorFlow" in printed) == (not events)
    assert not list(folder.glob("*unfinished*"))


def test_resume_continues_and_equals_one_run(train, tmp_path):
    train.answers += [0.1, 0.2, 0.3, 0.4] * 2
    train(CONFIG, "--output", tmp_path / "whole")
    train(CONFIG, "--output", tmp_path / "parts", "--epochs", "2")
    with (tmp_path / "parts" / "log.csv").open("a") as file:
        file.write("2,9,9,9\n")  # of an epoch that was killed before its checkpoint
    printed = train(CONFIG, "--output", tmp_path / "parts", "--resume")
    assert "--resume: epochs was 2, is 4" in printed
    logs = [(tmp_path / part / "log.csv").read_text().split() for part in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 5
    again = train(CONFIG, "--output", tmp_path / "parts", "--resume")  # nothing is left to do
    assert "epoch 4, mask AP 0.4000" in again


def test_resume_of_a_run_that_failed_at_once(train, tmp_path):
    with pytest.raises(IndexError):  # the stub has no AP to answer
        train(CONFIG, "--output", tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
    train.answers += [0.1, 0.2, 0.3, 0.4]
    assert "epoch 4, mask AP 0.4" in train(CONFIG, "--output", tmp_path / "run", "--resume")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_after_its_step(train, tmp_path, monkeypatch, number):
    train.answers += [0.1, 0.2, 0.3, 0.4] * 2
    train(CONFIG, "--output", tmp_path / "whole")
    original, steps = callbacks.Report.on_train_batch_end, []

    def step_and_signal(self, batch, logs=None):
        original(self, batch, logs)
        steps.append(batch)
        if len(steps) == 6:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Report, "on_train_batch_end", step_and_signal)
        handler = signal.getsignal(number)
        printed = train(CONFIG, "--output", tmp_path / "parts")
    assert signal.getsignal(number) is handler
    assert f"{number.name}: stopped after epoch 2, step 2; " in printed
    assert len(steps) == 6
    assert "step_0000006.keras, epoch 2, step 2" in train(
        CONFIG, "--output", tmp_path / "parts", "--resume"
    )
    logs = [(tmp_path / part / "log.csv").read_text().split() for part in ("whole", "parts")]
    assert logs[0] == logs[1] and len(logs[0]) == 5


def test_damaged_checkpoints_are_passed_over_and_named(train, tmp_path, capsys):
    train.answers += [0.1, 0.2, 0.3, 0.4]
    train(CONFIG, "--output", tmp_path / "run", "--epochs", "3")
    old, new = sorted((tmp_path / "run" / "checkpoints").glob("*.keras"))
    new.write_bytes(new.read_bytes()[:1000])
    train.answers[:] = [0.3, 0.4]
    printed = train(CONFIG, "--output", tmp_path / "run", "--resume")
    assert "--resume: passed over:" in printed and f"{new} has 1000 bytes, expected" in printed
    assert f"--resume: {old}, epoch 3, step 0" in printed and "epoch 4, mask AP 0.4" in printed
    for path in (tmp_path / "run" / "checkpoints").glob("*.keras"):
        path.unlink()
    with pytest.raises(SystemExit):
        train(CONFIG, "--output", tmp_path / "run", "--resume")
    assert "no whole checkpoint is left" in capsys.readouterr().err


def test_an_epoch_of_another_length_starts_anew(train, tmp_path, monkeypatch):
    train.answers += [0.1, 0.2]
    options = ["--epochs", "2", "--checkpoint_every", "3"]
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Evaluation, "on_epoch_end", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(CONFIG, "--output", tmp_path / "run", *options)
    longer = tmp_path / "longer.py"
    longer.write_text(CONFIG.read_text().replace("STEPS = 4", "STEPS = 5"))
    printed = train(longer, "--output", tmp_path / "run", *options, "--resume")
    assert "an epoch had 4 steps, has 5: epoch 1 starts at its beginning" in printed
    assert checkpoint.read_state(checkpoint.newest(tmp_path / "run")[0]).step == 3 + 2 * 5


def test_a_full_disk_is_told_and_the_run_can_go_on(train, tmp_path, monkeypatch):
    train.answers += [0.1, 0.2, 0.3, 0.4]
    train(CONFIG, "--output", tmp_path / "run", "--epochs", "2")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_put_in_place", no_space)
        with pytest.warns(UserWarning, match="No space left"), pytest.raises(SystemExit) as stop:
            train(CONFIG, "--output", tmp_path / "run", "--resume")
    assert "the last checkpoint could not be written" in str(stop.value)
    assert "--resume continues the run" in str(stop.value)
    train.answers += [0.3, 0.4]
    printed = train(CONFIG, "--output", tmp_path / "run", "--resume")
    assert "step_0000008.keras, epoch 3, step 0" in printed and "mask AP 0.4" in printed


def test_without_validation(train, tmp_path):
    printed = train(CONFIG, "--output", tmp_path / "run", "--epochs", "1", "--valid", "none")
    assert "trained, not evaluated" in printed
    assert (tmp_path / "run" / "model.keras").is_file()
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_start_from_weights(train, tmp_path):
    train.answers += [0.1, 0.1]
    train(CONFIG, "--output", tmp_path / "a", "--epochs", "1")
    weights = tmp_path / "a" / "model.keras"
    options = ["--epochs", "1", "--learning_rate", "1e-12", "--weights", weights]
    train(CONFIG, "--output", tmp_path / "b", *options)
    models = [tiny_system.TinySystem(1, 2) for _ in "ab"]
    for model, name in zip(models, "ab", strict=True):
        model.load_weights(tmp_path / name / "model.keras")
    for one, other in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "3"], "--epoch: no such field; did you mean 'epochs'?"),
        (["--resume"], "holds no run to continue"),
        (["--data", "nowhere"], "--data: no such file or folder: nowhere"),
    ],
)
def test_errors_are_one_line(train, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        train(CONFIG, "--output", tmp_path / "run", *arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_nothing_of_the_users_is_overwritten(train, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit):
        train(CONFIG, "--output", tmp_path)
    assert "is not empty; choose another folder, or --resume" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
