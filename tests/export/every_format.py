"""Every kind of file of one trained model: what it differs by, its AP, its size, its latency.

    python tests/export/every_format.py MODEL.keras FOLDER --size 128 128 --pictures PHOTOS \\
        [--score-threshold 0.01] [--representative PICTURES] [--kinds onnx float16 ...] [--data D]

Runs the scripts of export/, then `python -m pac_keras evaluate` on each file (not without --data,
which is `evaluate`'s), and prints a table. Files, reports and metrics stay in FOLDER. The exit
status is the number of scripts that failed.
"""

import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
TFLITE = ("float32", "float16", "dynamic", "int8")
KINDS = ("keras", "saved_model", "onnx", *TFLITE)
COLUMNS = ("kind", "box AP", "mask AP", "objects", "fewest", "unmatched", "box px", "score")
COLUMNS += ("mask IoU", "mask pixels", "MB", "ms", "exit")
FIGURES = ("objects", "fewest_objects_of_a_picture", "unmatched", "largest_box_difference_px")
FIGURES += ("largest_score_difference", "smallest_mask_iou", "largest_share_of_mask_pixels")


def export(kind, options):
    """(path of the file of that kind, exit status of the script that wrote it)."""
    if kind == "keras":
        return options.model, 0
    name = {"saved_model": "saved", "onnx": "model.onnx"}.get(kind, f"{kind}.tflite")
    script = "tflite" if kind in TFLITE else kind
    out = options.folder / name
    command = [sys.executable, ROOT / "export" / f"{script}.py", options.model, out]
    command += ["--pictures", *options.pictures]
    if options.score_threshold is not None:
        command += ["--score-threshold", str(options.score_threshold)]
    if kind != "saved_model":
        command += ["--size", *map(str, options.size)]
    if kind in TFLITE:
        command += ["--precision", kind]
    if kind == "int8":
        command += ["--representative", *(options.representative or options.pictures)]
    return out, subprocess.run(command, check=False).returncode


def average_precision(file, data, metrics):
    """[box AP, mask AP] in percent; writes `metrics`, a json."""
    command = [sys.executable, "-m", "pac_keras", "evaluate", file, "--data", data]
    subprocess.run([*command, "--out", metrics], check=True, cwd=ROOT)
    found = json.loads(metrics.read_text())
    return [f"{100 * found[kind]['AP']:.2f}" for kind in ("box", "mask")]


def figures(file):
    """The columns of COLUMNS that the report beside a file holds."""
    report = pathlib.Path(f"{file}.parity.json")
    if not report.is_file():
        return [""] * (len(FIGURES) + 2)
    found = json.loads(report.read_text())
    size = f"{found['file_bytes'] / 1e6:.1f}"
    return [*(f"{found[name]:.3g}" for name in FIGURES), size, str(found["latency_ms"])]


def main():
    """Exit status: how many scripts failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("folder", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("--size", nargs=2, type=int, default=(512, 512))
    parser.add_argument("--pictures", nargs="+", required=True)
    parser.add_argument("--representative", nargs="+")
    parser.add_argument("--score-threshold", type=float)
    parser.add_argument("--data", help="what AP is measured on")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows, failed = [], 0
    for kind in options.kinds:
        file, status = export(kind, options)
        failed += status != 0
        measured = file.exists() and options.data
        asked = file, options.data, options.folder / f"{kind}.metrics.json"
        precisions = average_precision(*asked) if measured else ["", ""]
        rows.append([kind, *precisions, *figures(file), str(status)])
    for row in (COLUMNS, ["---"] * len(COLUMNS), *rows):
        print("|", " | ".join(row), "|")
    return failed


if __name__ == "__main__":
    sys.exit(main())
