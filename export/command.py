"""What the scripts of this folder have in common: their options, their course, their errors."""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

_HERE = pathlib.Path(__file__).resolve().parent
_PHOTOGRAPHS = _HERE.parent / "tests" / "data" / "coco_eight" / "images"
_LEAST_PICTURES = 3


def parser(description, out, *, fixed_size):
    """An ArgumentParser with the options of every script.

    Args:
        description: the script's docstring.
        out: help about OUT.
        fixed_size: whether there is --size.
    """
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("model", help="a .keras file")
    options.add_argument("out", help=out)
    if fixed_size:
        options.add_argument(
            "--size",
            nargs=2,
            type=int,
            default=(512, 512),
            metavar=("H", "W"),
            help="of the input, multiples of 32; default 512 512",
        )
    options.add_argument(
        "--pictures",
        nargs="+",
        metavar="FILE",
        help="files or folders of pictures to compare on, at least three; default photographs",
    )
    options.add_argument(
        "--score-threshold", type=float, help="class scores must exceed it; default the model's"
    )
    options.add_argument(
        "--max-detections", type=int, metavar="D", help="objects per picture; default the model's"
    )
    return options


def run(options, write, check):
    """Loads the model, writes the file, compares. Exit status: 0; 1 if the answers differ; 2 after
    one line about a user's error.

    Args:
        options: as `parser` gives them.
        write: called with the model.
        check: called with the model and the paths of pictures; gives a report with "problems".
    """
    from saved_model import load

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's own chatter
    try:
        pictures = picture_paths(options.pictures or [_PHOTOGRAPHS], _LEAST_PICTURES)
        model = load(options.model)
        for name in ("score_threshold", "max_detections"):
            if getattr(options, name) is not None:
                setattr(model, name, getattr(options, name))
        write(model)
    except (ImportError, ValueError, OSError, RuntimeError) as error:
        script = pathlib.Path(sys.argv[0]).stem
        print(f"{script}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"{options.out}: written; now comparing")
    problems = check(model, pictures)["problems"]
    for problem in problems:
        print(f"{options.out}: {problem}", file=sys.stderr)
    return 1 if problems else 0


def picture_paths(sources, least=0):
    """Paths of the pictures in files and folders.

    Raises:
        ValueError: fewer than `least`.
    """
    from pac_keras.predict import picture_files

    sources = [pathlib.Path(source) for source in sources]
    files = [file for one in sources for file in (picture_files(one) if one.is_dir() else [one])]
    if len(files) < least:
        raise ValueError(f"--pictures: expected at least {least}, got {len(files)}")
    return files


def fresh_process(script, out, request):
    """{name: array}: what a script of this folder answers in a process without this project.

    Args:
        script: name of a file here; its arguments are `out`, REQUEST.npz, ANSWERS.npz.
        request: {name: array}.

    Raises:
        CalledProcessError: the script failed; it has told why.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in ("request.npz", "answers.npz")]
        np.savez(files[0], **request)
        # -P: this folder, where a script is called onnx.py, stays off the path.
        command = [sys.executable, "-P", str(_HERE / script), str(pathlib.Path(out).resolve())]
        subprocess.run([*command, *files], cwd=folder, check=True)
        with np.load(files[1]) as answers:
            return dict(answers)
