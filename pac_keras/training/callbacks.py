"""What happens around the steps of `fit`: evaluation, checkpoints, a report per epoch."""

import math
import sys
import time

import keras
import numpy as np

from pac_keras.evaluation.coco import evaluate_dataset
from pac_keras.evaluation.report import write_metrics
from pac_keras.training import checkpoint
from pac_keras.training.memory import RecycleMemory
from pac_keras.training.pictures import draw_predictions

LOGGED = {  # name in the logs -> where `evaluate_dataset` has it
    "val_box_AP": ("box", "AP"),
    "val_mask_AP": ("mask", "AP"),
    "val_boundary_AP": ("boundary", "AP"),
    "val_F_1px": ("boundary", "F_1px"),
    "val_F_3px": ("boundary", "F_3px"),
}


def standard_callbacks(experiment, folder, steps, valid=None, state=None):
    """The callbacks of a run, in their order.

    Args:
        experiment: an Experiment.
        folder: pathlib.Path of the run.
        steps: per epoch.
        valid: validation Dataset, or None.
        state: RunState that the run continues from, or None.
    """
    callbacks = [RecycleMemory(), StopOnNaN()]
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
    callbacks.append(Report(experiment.epochs, steps))
    callbacks.append(keras.callbacks.CSVLogger(folder / "log.csv", append=state is not None))
    if keras.backend.backend() == "tensorflow":  # Keras's callback writes through TensorFlow
        callbacks.append(keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False))
    else:
        print("TensorBoard logs are written on the TensorFlow backend alone; log.csv has the same.")
    callbacks.append(Checkpoint(folder, state))
    return callbacks


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


class Checkpoint(keras.callbacks.Callback):
    """`last.keras` after every epoch, `model.keras` = the latest one with the best `val_mask_AP`.

    Both hold the optimizer and, beside the model, a `RunState`: `checkpoint.restore` continues from
    either. Each file is replaced in one piece; a full disk costs a warning and the old file stays.
    Without validation data, or as long as no epoch was evaluated, model.keras is the last epoch.

    Args:
        folder: of the run.
        state: RunState that the run continues from, or None.
    """

    def __init__(self, folder, state=None):
        super().__init__()
        self.state = state
        self.best = state.best if state else None
        self.last = folder / "last.keras"
        self.model_file = folder / "model.keras"

    def on_train_begin(self, logs=None):
        if self.best and self.best["epoch"] == self.state.epoch:  # killed before the copy?
            checkpoint.copy(self.last, self.model_file)

    def on_epoch_end(self, epoch, logs=None):
        precision = (logs or {}).get("val_mask_AP", math.nan)
        best = self.best
        if precision >= (best["val_mask_AP"] if best else -math.inf):  # never true of NaN
            best = {"epoch": epoch + 1, "val_mask_AP": float(precision)}
        if not checkpoint.save(self.model, self.last, epoch + 1, best):
            return
        if best is not self.best or best is None:
            checkpoint.copy(self.last, self.model_file)
        self.best = best


class StopOnNaN(keras.callbacks.Callback):
    """Raises FloatingPointError, with every loss, at the first step whose loss is not finite."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if logs and not np.isfinite(logs.get("loss", 0.0)):
            raise FloatingPointError(
                f"epoch {self.epoch + 1}, step {batch + 1}: the loss is not finite "
                f"({_numbers(logs)}). Lower --learning_rate, lengthen --warmup_steps or set "
                f"--clip_norm 35; the run folder holds the last whole epoch."
            )


class Report(keras.callbacks.Callback):
    """A line per epoch: losses, metrics, time used and left in the run; between, a line per step.

    On a terminal the step's line is rewritten in place; elsewhere one is written every minute.

    Args:
        epochs: of the whole run.
        steps: per epoch.
        stream: with `write`, `flush` and `isatty`; None = standard output.
    """

    def __init__(self, epochs, steps, stream=None):
        super().__init__()
        self.epochs = epochs
        self.steps = steps
        self.stream = stream or sys.stdout
        self.interval = 0.5 if self.stream.isatty() else 60.0  # seconds

    def on_train_begin(self, logs=None):
        self.start = self.shown = time.monotonic()
        self.first = None  # when the first step, which compiles, was over
        self.done = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        self.done += 1
        self.first = self.first or now
        if now - self.shown >= self.interval:
            self.shown = now
            loss = float((logs or {}).get("loss", math.nan))
            self._write(
                f"epoch {self.epoch + 1}/{self.epochs}  step {batch + 1}/{self.steps}  "
                f"loss {loss:.4g}  {self._times(batch + 1)}",
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
