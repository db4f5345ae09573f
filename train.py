"""Trains a system: python train.py CONFIG [--field value ...] [--output DIR] [--resume]

    python train.py configs/pac_r18_shapes.py
    python train.py configs/pac_r18_folder.py --data my_data/ --epochs 30 --model.channels 128
    python train.py configs/pac_r18_folder.py --data train.json --images pictures/ --valid val.json

Every field of `pac_keras.training.Experiment` is an option; --model.NAME, --train.NAME and
--valid.NAME are arguments of what the config calls. DIR (default runs/CONFIG) gets model.keras
(best epoch), last.keras, metrics.json (of model.keras), log.csv, curves.png, pictures/, config and
versions. KERAS_BACKEND=jax trains without TensorFlow.
"""

import argparse
import pathlib

import keras

from pac_keras.evaluation.coco import evaluate_dataset
from pac_keras.evaluation.report import plot_log, write_metrics
from pac_keras.training import checkpoint, run_folder
from pac_keras.training.callbacks import standard_callbacks
from pac_keras.training.devices import device_scope
from pac_keras.training.experiment import ExperimentError, load_config
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
        folder = run_folder.open_folder(output, options.resume)
        keras.utils.set_random_seed(experiment.seed)
        keras.config.set_dtype_policy(experiment.precision)
        train, valid = experiment.build_data()
        with device_scope(experiment.batch_size):
            model = build(experiment, train)
    except (ExperimentError, FileNotFoundError) as error:
        parser.error(str(error))
    run_folder.write_description(folder, experiment, options.config)
    fit(experiment, model, train, valid, folder, options.resume)
    print(finish(experiment, model, valid, folder))


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


def fit(experiment, model, train, valid, folder, resume):
    """Trains `model`, from the run folder's last epoch with `resume`."""
    last = folder / "last.keras"  # not there if the run ended within its first epoch
    state = checkpoint.restore(model, last) if resume and last.is_file() else None
    start = state.epoch if state else 0
    run_folder.cut_log(folder / "log.csv", start)
    callbacks = standard_callbacks(experiment, folder, len(train), valid, state)
    model.fit(train, initial_epoch=start, epochs=experiment.epochs, callbacks=callbacks, verbose=0)


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
