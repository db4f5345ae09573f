"""Writes a trained system as a TensorFlow SavedModel and proves that it answers the same.

    python export/saved_model.py runs/shapes/model.keras out/shapes
    python export/saved_model.py model.keras out/served --score-threshold 0.3 --pictures photos/

OUT gets the SavedModel, which needs no pac_keras and no Keras to run, and categories.json. It has
two endpoints with the same answer (boxes, labels, category_ids, scores, box_scores, masks, valid,
sizes; see serving_graph.py), all in the pictures' own pixels:

    serving_default   "encoded", strings [B]: the bytes of JPEG or PNG files. Sizes may differ;
                      masks are padded to the largest picture, `sizes` tells each one's own.
    images            "images", uint8 [B, H, W, 3], RGB, of any one size

Pictures are taken as stored: whoever sends a photo applies its EXIF orientation first. Encoded
pictures run one by one, `images` as one batch. Afterwards a fresh process that imports TensorFlow
alone loads OUT and answers for the pictures; the exit status is 1 if it differs from the model.
"""

import argparse
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

_READABLE = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # JPEG, PNG


def main(arguments=None):
    """Exit status: 0; 1 if the answers differ; 2 after one line about a user's error."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's own chatter
    options = _parser().parse_args(arguments)
    try:
        pictures = read_pictures(options.pictures)
        model = load(options.model)
        if options.score_threshold is not None:
            model.score_threshold = options.score_threshold
        if options.max_detections is not None:
            model.max_detections = options.max_detections
        write(model, options.out)
    except (ValueError, OSError) as error:
        print(f"saved_model: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"{options.out}: written; now comparing")
    problems = check(model, options.out, pictures)
    for problem in problems:
        print(f"{options.out}: {problem}", file=sys.stderr)
    return 1 if problems else 0


def load(path):
    """The system in a .keras file.

    Raises:
        ValueError, FileNotFoundError: no such file, no system of pac_keras, no preprocessing, or
            Keras does not run on TensorFlow.
    """
    import keras

    from pac_keras.systems.base import InstanceSegmenter

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"a SavedModel needs KERAS_BACKEND=tensorflow, got {keras.backend.backend()!r}"
        )
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such model file")
    model = keras.models.load_model(path, compile=False)
    if not isinstance(model, InstanceSegmenter):
        raise ValueError(f"{path}: holds a {type(model).__name__}, not a system of pac_keras")
    if model.preprocessing is None:
        raise ValueError(
            f"{path}: knows no preprocessing, so pictures cannot be made into its input: fit it, "
            "or set model.preprocessing, and save it again"
        )
    return model


def write(model, out):
    """Writes the SavedModel and categories.json into `out`, a new or empty folder.

    Raises:
        FileExistsError: `out` holds something.
    """
    import keras
    from serving_graph import make_endpoints

    out = pathlib.Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out}: exists and is not empty")
    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, (function, spec) in make_endpoints(model).items():
        archive.add_endpoint(name, function, input_signature=[spec])
    archive.write_out(str(out), verbose=False)
    known = model.categories or [(k, f"class {k}") for k in range(model.num_classes)]
    categories = [
        {"label": label, "id": int(number), "name": name}
        for label, (number, name) in enumerate(known)
    ]
    text = json.dumps(categories, ensure_ascii=False, indent=1)
    (out / "categories.json").write_text(text + "\n", encoding="utf-8")


def check(model, out, pictures):
    """What differs between `model` and the SavedModel in `out`, sentences; prints the figures.

    Args:
        pictures: the bytes of encoded pictures.
    """
    from comparison import Answer, compare, eager_answer, total

    from pac_keras.data.image import read_image

    images = [read_image(content) for content in pictures]
    answers = answers_of_fresh_process(out, pictures, images)
    differences = {"serving_default": [], "images": []}
    problems = []
    for index, image in enumerate(images):
        expected = eager_answer(model, image)
        for endpoint, found in differences.items():
            got = {name: answers[f"{endpoint}/{index}/{name}"] for name in Answer._fields}
            width = image.shape[1]
            got["masks"] = np.unpackbits(got["masks"], axis=-1, count=width).astype(bool)
            found.append(compare(expected, Answer(**got)))
            if int(answers[f"{endpoint}/{index}/outside"]):
                problems.append(f"{endpoint}: a mask of picture {index} reaches out of the picture")
    for endpoint, found in differences.items():
        together = total(found)
        print(f"{endpoint}: {len(images)} pictures, {together}")
        problems += [f"{endpoint}: {problem}" for problem in together.problems()]
    return problems


def answers_of_fresh_process(out, pictures, images):
    """{"ENDPOINT/i/NAME": array}: what reloaded.py finds in a process without this project."""
    request = {f"image/{i}": image for i, image in enumerate(images)}
    for index, content in enumerate(pictures):
        request[f"encoded/{index}"] = np.frombuffer(content, "uint8")
    script = pathlib.Path(__file__).resolve().parent / "reloaded.py"
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in ("request.npz", "answers.npz")]
        np.savez(files[0], **request)
        saved = str(pathlib.Path(out).resolve())
        subprocess.run([sys.executable, str(script), saved, *files], cwd=folder, check=True)
        with np.load(files[1]) as answers:
            return dict(answers)


def read_pictures(sources):
    """The bytes of encoded pictures: of files and folders, or two built-in ones for None.

    Raises:
        ValueError: a file is neither JPEG nor PNG; names it.
    """
    if sources is None:
        return built_in_pictures()
    from pac_keras.predict import picture_files

    pictures = []
    for source in map(pathlib.Path, sources):
        for file in picture_files(source) if source.is_dir() else [source]:
            content = file.read_bytes()
            if not content.startswith(_READABLE):
                raise ValueError(f"{file}: neither JPEG nor PNG, which is what the graph reads")
            pictures.append(content)
    return pictures


def built_in_pictures():
    """A PNG and a JPEG of two sizes, drawn by the built-in data set."""
    from pac_keras.data import ShapesSource

    source = ShapesSource("valid", 2, size=160)
    pictures = []
    for image, kind in ((source[0].image, "PNG"), (source[1].image[:120], "JPEG")):
        file = io.BytesIO()
        Image.fromarray(image).save(file, kind)
        pictures.append(file.getvalue())
    return pictures


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a .keras file")
    parser.add_argument("out", help="folder of the SavedModel, new or empty")
    parser.add_argument(
        "--pictures",
        nargs="+",
        metavar="FILE",
        help="files or folders of JPEG and PNG pictures to compare on; default two built-in ones",
    )
    parser.add_argument(
        "--score-threshold", type=float, help="class scores must exceed it; default the model's"
    )
    parser.add_argument(
        "--max-detections", type=int, metavar="D", help="objects per picture; default the model's"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
