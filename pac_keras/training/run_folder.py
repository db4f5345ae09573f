"""The folder of a run: what is written into it beside the checkpoints."""

import csv
import json
import os
import pathlib
import platform
import sys
from importlib import metadata

import keras

from pac_keras.training.experiment import ExperimentError, describe

# What a run that was killed at its first moment leaves; it holds nothing of the user's.
_BEFORE_THE_RUN = {"config.py", "versions.json"}
_BEFORE_THE_RUN |= {f"{name}.unfinished" for name in (*_BEFORE_THE_RUN, "config.json")}
_PACKAGES = ("pac_keras", "keras", "tensorflow", "jax", "numpy", "grain", "pillow", "pycocotools")


def open_folder(path, resume, chief=True):
    """`path` as a pathlib.Path: absent or empty, or with `resume` the folder of a run. Processes
    that are not the `chief` of a new run write nothing, and may come later than its first files.

    Raises ExperimentError where that would overwrite, or where there is nothing to continue.
    """
    folder = pathlib.Path(path)
    if folder.exists() and not folder.is_dir():
        raise ExperimentError(f"--output {folder}: expected a folder, it is a file")
    if resume and not (folder / "config.json").is_file():
        raise ExperimentError(f"--resume: {folder} holds no run to continue")
    started = folder.is_dir() and {path.name for path in folder.iterdir()} - _BEFORE_THE_RUN
    if chief and not resume and started:
        raise ExperimentError(
            f"--output {folder}: is not empty; choose another folder, or --resume to continue it"
        )
    return folder


def write_description(folder, experiment, config):
    """Makes `folder` and writes config.json (every value as used), config.py, versions.json.

    Prints which fields differ from those of the run that is continued.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = folder / "config.json"
    if before.is_file():
        now = describe(experiment)
        for name, value in json.loads(before.read_text()).items():
            if value != now.get(name):
                print(f"--resume: {name} was {value}, is {now.get(name)}")
    texts = {
        "config.py": pathlib.Path(config).read_text(),
        "versions.json": json.dumps(versions(), indent=2) + "\n",
        "config.json": json.dumps(describe(experiment), indent=2) + "\n",
    }
    for name, text in texts.items():  # the last one makes it a run that can be resumed
        temporary = folder / f"{name}.unfinished"
        temporary.write_text(text)
        os.replace(temporary, folder / name)


def versions():
    """{name: version} of Python, the backend and the packages, and the command line."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "backend": keras.backend.backend(),
        "devices": keras.distribution.list_devices(),
        "packages": found,
    }


def cut_log(path, epochs):
    """Keeps the rows of the first `epochs` epochs: an interrupted run may have logged one more."""
    path = pathlib.Path(path)
    if not path.is_file():
        return
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    kept = rows[:1] + [row for row in rows[1:] if int(row[0]) < epochs]
    temporary = path.with_name(f"{path.name}.unfinished")
    with temporary.open("w", newline="") as file:
        csv.writer(file).writerows(kept)
    os.replace(temporary, path)
