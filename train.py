"""Trains a system: python train.py CONFIG [--field value ...] [--output DIR] [--resume]

    python train.py configs/pac_r18_shapes.py
    python train.py configs/pac_r18_folder.py --data my_data/ --epochs 30 --model.channels 128
    python train.py configs/pac_r18_folder.py --data train.json --images pictures/ --valid val.json

Every field of `pac_keras.training.Experiment` is an option; --model.NAME, --train.NAME and
--valid.NAME are arguments of what the config calls. DIR (default runs/CONFIG) gets model.keras
(best epoch), checkpoints/, metrics.json (of model.keras), log.csv, curves.png, pictures/, config
and versions. SIGTERM and Ctrl-C end a run after a step, with a checkpoint; --resume continues it,
or one that was killed. KERAS_BACKEND=jax trains without TensorFlow.
"""

import argparse
import pathlib
import sys

import keras

from pac_keras.data.bad_images import BadImageError
from pac_keras.evaluation.coco import evaluate_dataset
from pac_keras.evaluation.report import plot_log, write_metrics
from pac_keras.training import checkpoint, run_folder
from pac_keras.training.callbacks import StopOnNaN, standard_callbacks
from pac_keras.training.devices import Devices
from pac_keras.training.experiment import ExperimentError, load_config
from pac_keras.training.interrupts import Interrupted, interrupts
from pac_keras.training.memory import RecycleMemory
from pac_keras.training.overrides import apply_overrides, use_data
from pac_keras.training.pictures import draw_predictions
from pac_keras.training.schedule import make_optimizer
from pac_keras.weights import start_from


def main():
    """Runs one experiment from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="a file of configs/")
    parser.add_argument("--output", help="folder of the run, new or empty; default runs/CONFIG")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    parser.add_argument("--data", help="folder with train.json, val.json, images/; or a COCO json")
    parser.add_argument("--images", help="folder of the pictures, where --data is a json")
    parser.add_argument("--valid", help="COCO json or folder to evaluate on, or none")
    parser.add_argument("--valid_images", help="folder of the pictures of --valid, if another")
    options, overrides = parser.parse_known_args()
    try:
        experiment = load_config(options.config)
        places = options.data, options.images, options.valid, options.valid_images
        experiment = apply_overrides(use_data(experiment, *places), overrides)
        output = options.output or pathlib.Path("runs") / pathlib.Path(options.config).stem
        devices = Devices(experiment.batch_size)
        folder = run_folder.open_folder(output, options.resume, devices.chief)
        keras.utils.set_random_seed(experiment.seed)
        keras.config.set_dtype_policy(experiment.precision)
        train, valid = experiment.build_data()
        with devices.scope():
            model = build(experiment, train)
            state = continued(model, folder, train) if options.resume else None
    except (ExperimentError, FileNotFoundError) as error:
        parser.error(str(error))
    if devices.chief:
        run_folder.write_description(folder, experiment, options.config)
    try:
        if devices.chief:
            fit(experiment, model, train, valid, folder, state)
        else:
            fit_beside_the_chief(experiment, model, train, state)
    except Interrupted as message:
        print(message)
        return
    except (BadImageError, FloatingPointError, OSError) as error:
        reason = str(error).partition("\n")[0]  # Grain appends a remark of its own
        sys.exit(f"train.py: {reason}\n{folder} keeps its checkpoints; --resume continues the run")
    if devices.chief:
        print(finish(experiment, model, valid, folder))
    devices.wait_for_all()


def build(experiment, train):
    """The compiled system of `experiment`."""
    model = experiment.build_model(train)
    if experiment.weights:
        load_start(model, experiment.weights)
    decay = experiment.weight_decay if experiment.optimizer == "sgd" else 0.0
    optimizer = make_optimizer(experiment, len(train))
    model.compile(optimizer, weight_decay=decay, clip_norm=experiment.clip_norm)
    return model


def load_start(model, weights):
    """Puts the file `weights` into `model`, and prints which variables start anew."""
    try:
        new = start_from(model, weights)
    except ValueError as error:
        raise ExperimentError(f"weights: {error}") from error
    print(f"{weights}: loaded, {len(new)} variables start anew", *new, sep="\n  ")


def fit(experiment, model, train, valid, folder, state):
    """Trains `model` and writes the run's folder."""
    run_folder.cut_log(folder / "log.csv", state.epoch if state else 0)
    with interrupts() as asked:
        callbacks = standard_callbacks(experiment, folder, train, valid, state, asked)
        run_epochs(experiment, model, train, state, callbacks)


def fit_beside_the_chief(experiment, model, train, state):
    """Trains `model` as one of several workers, which writes nothing."""
    run_epochs(experiment, model, train, state, [RecycleMemory(), StopOnNaN(train, state)])


def run_epochs(experiment, model, train, state, callbacks):
    """Keras's `fit`, from `state` where there is one; its epoch is finished first."""
    options = {"callbacks": callbacks, "verbose": 0}
    start = state.epoch if state else 0
    if state and state.epoch_step:
        rest = {"initial_epoch": start, "initial_step": state.epoch_step, "epochs": start + 1}
        model.fit(train, **rest, **options)
        start += 1
    model.fit(train, initial_epoch=start, epochs=experiment.epochs, **options)


def continued(model, folder, train):
    """The RunState that a run continues from, its weights in `model`; None for its beginning."""
    path, reasons = checkpoint.newest(folder)
    for reason in reasons:
        print(f"--resume: passed over: {reason}")
    if path is None:
        if reasons:
            raise ExperimentError(f"--resume: no whole checkpoint is left in {folder}/checkpoints")
        return None
    state = checkpoint.restore(model, path)
    print(f"--resume: {path}, epoch {state.epoch + 1}, step {state.epoch_step}")
    if state.epoch_step and state.steps_per_epoch != len(train):
        print(
            f"--resume: an epoch had {state.steps_per_epoch} steps, has {len(train)}: epoch "
            f"{state.epoch + 1} starts at its beginning"
        )
        return state._replace(epoch_step=0)
    return state


def finish(experiment, model, valid, folder):
    """What the run reached, in a line, after writing metrics.json and pictures of model.keras."""
    plot_log(folder / "log.csv", folder / "curves.png")
    if valid is None:
        return f"{folder}: trained, not evaluated (no validation data)"
    state = checkpoint.read_state(folder / "model.keras")
    if state.epoch != experiment.epochs:  # the best epoch is not the last one
        model.load_weights(folder / "model.keras")
        metrics = evaluate_dataset(model, valid, experiment.boundary)
        write_metrics(folder / "metrics.json", metrics)
    if experiment.pictures:
        pictures = folder / "pictures"
        draw_predictions(model, valid, pictures / "final.jpg", experiment.pictures, pictures)
    best = state.best["val_mask_AP"]
    return f"{folder}/model.keras: epoch {state.epoch}, mask AP {best:.4f} on {valid.source.name}"


if __name__ == "__main__":
    main()
