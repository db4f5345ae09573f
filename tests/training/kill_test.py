"""A training run that is killed over and over ends as the run that was left alone.

    python tests/training/kill_test.py FOLDER [--kills 30] [--seed 0] [--small_disk EMPTY]

Trains a small Mask R-CNN on the CPU to its end (FOLDER/whole), then the same once more
(FOLDER/killed) with a SIGKILL at random moments: before the first step, within steps, during
evaluations, and every third while a checkpoint is being written. After each kill it is resumed.
Prints the kills by what they interrupted, and compares: every row of log.csv as text, every weight
bit by bit. Then the newest checkpoint is cut off, and has one bit flipped: the one before has to be
used, and said so. With --small_disk, an empty folder of a small file system (`mount -t tmpfs -o
size=64m tmpfs EMPTY`), the run is done there as well, and the disk filled up after its first
checkpoint: the run has to end with an error that tells so, lose nothing, and go on once there is
space. The exit status is 1 if anything differs. Takes about KILLS minutes.
"""

import argparse
import contextlib
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = '''"""A Mask R-CNN of a few channels on 24 shapes: many short steps."""

from functools import partial

from pac_keras import MaskRCNN
from pac_keras.data import shapes
from pac_keras.training import Experiment

experiment = Experiment(
    model=partial(
        MaskRCNN, backbone="resnet18", base_channels=8, frozen_stages=0, norm="batch",
        channels=8, fc_channels=16, roi_samples=8, pre_nms=(50, 50), max_proposals=(50, 50),
    ),
    train=partial(shapes, count=480, size=64),
    valid=partial(shapes, count=8, size=64),
    epochs=4,
    batch_size=4,
    learning_rate=1e-3,
    optimizer="adamw",
    warmup_steps=10,
    schedule="cosine",
    pictures=0,
    boundary=False,
    checkpoint_every=10,
)
'''


def start(folder, resume):
    """The process of a run whose output goes to FOLDER.txt."""
    command = [sys.executable, "-u", ROOT / "train.py", folder.parent / "config.py"]
    command += ["--output", folder, *(["--resume"] if resume else [])]
    environment = os.environ | {"TF_DETERMINISTIC_OPS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    with open(f"{folder}.txt", "a") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, env=environment)


def finish(folder, resume):
    """Runs to the end; what it printed."""
    if status := start(folder, resume).wait():
        raise SystemExit(f"train.py ended with {status}, see {folder}.txt")
    return pathlib.Path(f"{folder}.txt").read_text()


def begun(folder):
    """Whether there is a run to resume."""
    return (folder / "config.json").is_file()


def newest_step(folder):
    steps = [int(path.stem[5:]) for path in (folder / "checkpoints").glob("step_*.json")]
    return max(steps, default=0)


def saving(folder):
    """Whether a checkpoint, or the copy of the best one, is being written."""
    return any(folder.rglob("*unfinished*"))


def kill_one(folder, generator, during_save):
    """Starts or continues the run and kills it; (what was interrupted, whether it had ended)."""
    process = start(folder, begun(folder))
    before = newest_step(folder)
    if during_save:
        while process.poll() is None and not saving(folder):
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.03))
    else:
        wanted = before + generator.choice((0, 10, 20))  # wait until the run is that far
        while process.poll() is None and newest_step(folder) < wanted:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 5))
    ended = process.poll() is not None
    if process.poll():
        raise SystemExit(f"train.py ended with {process.poll()}, see {folder}.txt")
    process.kill()
    process.wait()
    if ended:
        return "nothing", True
    if saving(folder):
        return "a save", False
    return "the start" if newest_step(folder) == before else "steps", False


def weights(folder):
    """The arrays of model.keras, in its order; states of random generators are not kept in it."""
    import keras

    import pac_keras  # noqa: F401 (registers the systems)

    model = keras.models.load_model(folder / "model.keras", compile=False)
    return [np.asarray(variable) for variable in model.weights]


def differences(whole, killed):
    """Sentences about what differs between two runs' folders."""
    logs = [(folder / "log.csv").read_text() for folder in (whole, killed)]
    problems = [] if logs[0] == logs[1] else [f"log.csv differs:\n{logs[0]}\n{logs[1]}"]
    one, other = weights(whole), weights(killed)
    if len(one) != len(other) or not all(map(np.array_equal, one, other)):
        problems.append("model.keras holds other weights")
    return problems


def damage_newest(folder, how):
    """Damages a copy of a run's newest checkpoint; what resuming it leaves to be desired."""
    other = folder.with_name(f"{folder.name}_{how.replace(' ', '_')}")
    shutil.copytree(folder, other)
    path = max((other / "checkpoints").glob("step_*.keras"))
    content = bytearray(path.read_bytes())
    if how == "cut off":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)
    printed = finish(other, resume=True)
    said = f"--resume: passed over: {path}" in printed
    problems = [] if said else [f"{how}: not said"]
    return problems + [f"{how}: {one}" for one in differences(folder, other)]


def fill_disk(whole, place):
    """Runs where the disk becomes full, and goes on after that; what leaves to be desired."""
    folder = whole.with_name("full")  # what the run prints goes to another disk
    (place / "run").mkdir()
    folder.symlink_to(place / "run")
    process = start(folder, resume=False)
    while process.poll() is None and not newest_step(folder):
        time.sleep(0.01)
    filler = place / "filler"
    with open(filler, "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while process.poll() is None:
                file.write(bytes(2**16))
        kept = {path: path.read_bytes() for path in (folder / "checkpoints").glob("step_*.json")}
    status, printed = process.wait(), pathlib.Path(f"{folder}.txt").read_text()
    problems = [] if status else ["ended with status 0"]
    problems += [] if "No space left on device" in printed else ["did not tell of the full disk"]
    problems += [] if "--resume continues the run" in printed else ["did not tell how to go on"]
    lost = [path.name for path, content in kept.items() if path.read_bytes() != content]
    problems += [f"lost {name}" for name in lost]
    filler.unlink()
    finish(folder, resume=True)
    print(f"disk full after {sorted(path.stem for path in kept)}: status {status}", flush=True)
    return [f"full disk: {one}" for one in (*problems, *differences(whole, folder))]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=lambda path: pathlib.Path(path).resolve(), help="new")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--small_disk", type=lambda path: pathlib.Path(path).resolve())
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    (options.folder / "config.py").write_text(CONFIG)
    whole, killed = options.folder / "whole", options.folder / "killed"
    finish(whole, resume=False)
    generator, counts, first = random.Random(options.seed), {}, time.monotonic()
    kills = problems = 0
    while kills < options.kills:
        what, ended = kill_one(killed, generator, during_save=kills % 3 == 0)
        if ended:  # the run was over before its time: the next ones start anew
            problems += compare(whole, killed)
            shutil.rmtree(killed)
            continue
        kills += 1
        counts[what] = counts.get(what, 0) + 1
        left = (time.monotonic() - first) / kills * (options.kills - kills)
        print(
            f"kill {kills}: {what}; checkpoint {newest_step(killed)}; {left:.0f} s left", flush=True
        )
    finish(killed, resume=begun(killed))
    problems += compare(whole, killed)
    for how in ("cut off", "one bit"):
        found = damage_newest(whole, how)
        problems += len(found)
        print(f"newest checkpoint {how}: {'; '.join(found) or 'the one before was used, same end'}")
    if options.small_disk:
        found = fill_disk(whole, options.small_disk)
        problems += len(found)
        print(*found or ["full disk: nothing lost, same end"], sep="\n")
    print(f"{kills} kills: {counts}; {problems} problems")
    return 1 if problems else 0


def compare(whole, killed):
    """How much differs, after printing it."""
    found = differences(whole, killed)
    print(*found or [f"{killed} equals {whole}: log.csv and every weight"], sep="\n", flush=True)
    return len(found)


if __name__ == "__main__":
    sys.exit(main())
