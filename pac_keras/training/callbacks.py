"""What happens around the steps of `fit`: evaluation, checkpoints, a report per epoch."""

import math
import sys
import time

import keras
import numpy as np

from pac_keras.evaluation.coco import evaluate_dataset
from pac_keras.evaluation.report import write_metrics
from pac_keras.training import checkpoint, run_folder
from pac_keras.training.experiment import describe
from pac_keras.training.interrupts import Interrupted
from pac_keras.training.memory import RecycleMemory
from pac_keras.training.pictures import draw_predictions

LOGGED = {  # name in the logs -> where `evaluate_dataset` has it
    "val_box_AP": ("box", "AP"),
    "val_mask_AP": ("mask", "AP"),
    "val_boundary_AP": ("boundary", "AP"),
    "val_F_1px": ("boundary", "F_1px"),
    "val_F_3px": ("boundary", "F_3px"),
}


def standard_callbacks(experiment, folder, train, valid=None, state=None, asked=()):
    """The callbacks of a run, in their order.

    Args:
        experiment: an Experiment.
        folder: pathlib.Path of the run.
        train: training Dataset.
        valid: validation Dataset, or None.
        state: RunState that the run continues from, or None.
        asked: list of signals, see `interrupts`.
    """
    callbacks = [RecycleMemory(), StopOnNaN(train, state)]
    if valid is not None:
        evaluation = Evaluation(
            valid,
            folder,
            experiment.epochs,
            every=experiment.evaluate_every,
            pictures=experiment.pictures,
            boundary=experiment.boundary,
        )
        callbacks.append(evaluation)
    callbacks.append(Report(experiment.epochs, len(train), state))
    callbacks.append(keras.callbacks.CSVLogger(folder / "log.csv", append=state is not None))
    if keras.backend.backend() == "tensorflow":  # Keras's callback writes through TensorFlow
        callbacks.append(keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False))
    else:
        print("TensorBoard logs are written on the TensorFlow backend alone; log.csv has the same.")
    about = {"settings": describe(experiment), "versions": run_folder.versions()}
    places = {"every": experiment.checkpoint_every, "keep": experiment.keep_checkpoints}
    callbacks.append(Checkpoint(folder, len(train), state, **places, about=about, asked=asked))
    return callbacks


class _Stepwise(keras.callbacks.Callback):
    """Knows how many steps of an epoch were over before Keras began to count: where a run continues
    within an epoch, its batch 0 is not the epoch's first."""

    def __init__(self, state=None):
        super().__init__()
        self._start = (state.epoch, state.epoch_step) if state else (0, 0)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.offset = self._start[1] if epoch == self._start[0] else 0


class Evaluation(keras.callbacks.Callback):
    """COCO metrics of the validation data in the logs, under the names in `LOGGED`, fractions of 1.

    What was not measured (epochs without evaluation, boundary=False) is NaN, so that every row of
    the log has all of them. Put it before the callbacks that read them (CSVLogger, `Checkpoint`,
    `Report`). Writes metrics.json, and pictures/epoch_NNN.jpg with the predictions for the first
    validation pictures.

    Args:
        dataset: validation `Dataset`.
        folder: of the run.
        epochs: of the whole run; the last one is always evaluated.
        every: epochs between evaluations.
        pictures: number of pictures to draw; 0 = none.
        boundary: also boundary AP and F.
    """

    def __init__(self, dataset, folder, epochs, every=1, pictures=8, boundary=True):
        super().__init__()
        self.dataset = dataset
        self.folder = folder
        self.epochs = epochs
        self.every = every
        self.pictures = pictures
        self.boundary = boundary

    def on_epoch_end(self, epoch, logs=None):
        logs.update(dict.fromkeys(LOGGED, math.nan))
        if (epoch + 1) % self.every and epoch + 1 != self.epochs:
            return
        metrics = evaluate_dataset(self.model, self.dataset, self.boundary)
        write_metrics(self.folder / "metrics.json", metrics)
        for name, (kind, metric) in LOGGED.items():
            if kind in metrics:
                logs[name] = metrics[kind][metric]
        if self.pictures:
            sheet = self.folder / "pictures" / f"epoch_{epoch + 1:03d}.jpg"
            draw_predictions(self.model, self.dataset, sheet, self.pictures)


class Checkpoint(_Stepwise):
    """Checkpoints during the run; `model.keras` = the one with the latest best `val_mask_AP`.

    One is written every `every` steps and after every epoch (see `checkpoint.save`; a full disk
    costs a warning, and the run's end an OSError if the last one is not written). Without
    validation data, or as long as no epoch was evaluated, model.keras is the last epoch.

    Args:
        folder: of the run.
        steps: per epoch.
        state: RunState that the run continues from, or None.
        every: steps between checkpoints within an epoch; None = none.
        keep: how many of the newest are kept.
        about: {name: JSON value} for the manifests.
        asked: list of signals, see `interrupts`: where there is one, the run ends after the step
            with a checkpoint and `Interrupted`.
    """

    def __init__(self, folder, steps, state=None, *, every=None, keep=2, about=None, asked=()):
        super().__init__(state)
        self.state = state
        self.best = state.best if state else None
        self.folder, self.steps = folder, steps
        self.every, self.keep, self.about = every, keep, about
        self.asked = asked
        self.model_file = folder / "model.keras"
        self.written = True

    def on_train_begin(self, logs=None):
        if self.best and self.best["epoch"] == self.state.epoch:  # killed before the copy?
            path, _ = checkpoint.newest(self.folder)
            if checkpoint.read_state(path)[:2] == self.state[:2] and not self.state.epoch_step:
                checkpoint.copy(path, self.model_file)

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch)
        if self.offset:
            checkpoint.restore_means(self.model, self.state)

    def on_train_batch_end(self, batch, logs=None):
        over = self.offset + batch + 1
        due = self.every and over % self.every == 0
        if over < self.steps and (due or self.asked):
            path = self._save(self.epoch, over, self.best)
            self._stop_if_asked(path, over)

    def on_epoch_end(self, epoch, logs=None):
        precision = (logs or {}).get("val_mask_AP", math.nan)
        best = self.best
        if precision >= (best["val_mask_AP"] if best else -math.inf):  # never true of NaN
            best = {"epoch": epoch + 1, "val_mask_AP": float(precision)}
        path = self._save(epoch + 1, 0, best)
        if path is not None:
            if best is not self.best or best is None:
                self.written = checkpoint.copy(path, self.model_file)
            self.best = best
        self._stop_if_asked(path, self.steps)

    def on_train_end(self, logs=None):
        if not self.written:
            raise OSError(f"{self.folder}: the last checkpoint could not be written; see above")

    def _save(self, epoch, over, best):
        """Path of the checkpoint, or None."""
        state = checkpoint.state_of(self.model, epoch, over, self.steps, best)
        path = checkpoint.save(self.model, self.folder, state, self.about, self.keep)
        self.written = path is not None
        return path

    def _stop_if_asked(self, path, over):
        if self.asked:
            where = f"{self.asked[0]}: stopped after epoch {self.epoch + 1}, step {over}; "
            left = f"{path} is written" if path else "no checkpoint could be written"
            raise Interrupted(f"{where}{left}; --output {self.folder} --resume continues")


class StopOnNaN(_Stepwise):
    """Raises FloatingPointError at the first step whose loss is not finite.

    It names every loss and, if it is given the training Dataset, the pictures of that step.
    """

    def __init__(self, dataset=None, state=None):
        super().__init__(state)
        self.dataset = dataset

    def on_train_batch_end(self, batch, logs=None):
        if logs and not np.isfinite(logs.get("loss", 0.0)):
            step = self.offset + batch
            ids = self.dataset.image_ids(self.epoch, step) if self.dataset else "unknown"
            raise FloatingPointError(
                f"epoch {self.epoch + 1}, step {step + 1}: the loss is not finite "
                f"({_numbers(logs)}; image ids {ids}). Lower --learning_rate, lengthen "
                "--warmup_steps or set --clip_norm 35; `python -m pac_keras check` finds broken "
                "objects; checkpoints/ holds the run before."
            )


class Report(_Stepwise):
    """A line per epoch: losses, metrics, time used and left in the run; between, a line per step.

    On a terminal the step's line is rewritten in place; elsewhere one is written every minute.

    Args:
        epochs: of the whole run.
        steps: per epoch.
        state: RunState that the run continues from, or None.
        stream: with `write`, `flush` and `isatty`; None = standard output.
    """

    def __init__(self, epochs, steps, state=None, stream=None):
        super().__init__(state)
        self.epochs = epochs
        self.steps = steps
        self.stream = stream or sys.stdout
        self.interval = 0.5 if self.stream.isatty() else 60.0  # seconds

        self.start = self.shown = time.monotonic()
        self.first = None  # when the first step, which compiles, was over
        self.done = 0

    def on_train_batch_end(self, batch, logs=None):
        now, step = time.monotonic(), self.offset + batch + 1
        self.done += 1
        self.first = self.first or now
        if now - self.shown >= self.interval:
            self.shown = now
            loss = float((logs or {}).get("loss", math.nan))
            self._write(
                f"epoch {self.epoch + 1}/{self.epochs}  step {step}/{self.steps}  "
                f"loss {loss:.4g}  {self._times(step)}",
                lasting=not self.stream.isatty(),
            )

    def on_epoch_end(self, epoch, logs=None):
        self._write(
            f"epoch {epoch + 1}/{self.epochs}  {_numbers(logs or {})}  {self._times(self.steps)}"
        )

    def _times(self, step):
        """ "elapsed ..., left ...": at the speed since the first step, evaluations included."""
        now = time.monotonic()
        left = (self.epochs - self.epoch) * self.steps - step
        text = f"elapsed {duration(now - self.start)}"
        if self.done > 1:
            text += f", left {duration(left * (now - self.first) / (self.done - 1))}"
        return text

    def _write(self, text, lasting=True):
        if self.stream.isatty():
            text = f"\r\x1b[K{text}"  # back to the line's start, and erase it
        self.stream.write(f"{text}\n" if lasting else text)
        self.stream.flush()


def duration(seconds):
    """ "h:mm:ss"."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _numbers(logs):
    """ "loss 1.2  rpn 0.3  ...", what is NaN by design (not measured) left out."""
    shown = {
        name: float(value)
        for name, value in logs.items()
        if not (name in LOGGED and math.isnan(value))
    }
    return "  ".join(f"{name} {value:.3g}" for name, value in shown.items())
