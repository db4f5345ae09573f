"""Writes a trained system as a TensorFlow SavedModel and proves that it answers the same.

    python export/saved_model.py runs/shapes/model.keras out/shapes
    python export/saved_model.py model.keras out/served --score-threshold 0.3 --pictures photos/

OUT gets the SavedModel, which needs no pac_keras and no Keras to run, requests that warm up
TensorFlow Serving, and metadata.json (class names, resize; see metadata.py). Endpoints:

    serving_default   "encoded", strings [B]: the bytes of JPEG, PNG, GIF, BMP or WebP files. Sizes
                      may differ; masks are padded to the largest picture, `sizes` tells each one's
                      own. A file that cannot be read gets a sentence in `errors`, and no objects.
    png               the same with each mask as the bytes of a PNG, for answers that travel as JSON
    images            "images", uint8 [B, H, W, 3], RGB, of any one size
    raw               "pixels", "sizes": the network itself, `Images` to `Detections`

All but raw answer in the pictures' own pixels; the fields are explained in serving_graph.py.
Pictures are taken as stored: whoever sends a photo applies its EXIF orientation first. Encoded
pictures run one by one, `images` as one batch.

Afterwards a fresh process that imports TensorFlow alone loads OUT and answers for the pictures,
turned upright. OUT.parity.json holds the differences, operators, size and latency (this machine's
CPU); the exit status is 1 if they are beyond tolerance (comparison.py).
"""

import collections
import io
import json
import pathlib
import sys

import numpy as np
from PIL import Image

_SENT_AS_THEY_ARE = (".jpeg", ".jpg", ".png")


def main(arguments=None):
    """Exit status: 0; 1 if the answers differ; 2 after one line about a user's error."""
    import command

    parser = command.parser(__doc__, "folder of the SavedModel, new or empty", fixed_size=False)
    options = parser.parse_args(arguments)
    return command.run(
        options,
        lambda model: write(model, options.out),
        lambda model, pictures: check(model, options.out, pictures),
    )


def load(path):
    """The system in a .keras file.

    Raises:
        ValueError, FileNotFoundError: see `pac_keras.systems.keras_file.load`; or Keras does not
            run on TensorFlow.
    """
    import keras

    from pac_keras.systems import keras_file

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"a SavedModel needs KERAS_BACKEND=tensorflow, got {keras.backend.backend()!r}"
        )
    return keras_file.load(path)


def write(model, out):
    """Writes the SavedModel, its warm-up and metadata.json into `out`, a new or empty folder.

    Raises:
        FileExistsError: `out` holds something.
    """
    import tensorflow as tf
    from metadata import metadata
    from serving_graph import make_endpoints
    from warmup import write_warmup

    out = pathlib.Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out}: exists and is not empty")
    functions = {
        name: tf.function(function, inputs, autograph=False).get_concrete_function()
        for name, (function, inputs) in make_endpoints(model).items()
    }
    holder = tf.Module()  # Keras' own archive would write each variable twice
    holder.kept = list({id(v): v for one in functions.values() for v in one.variables}.values())
    tf.saved_model.save(holder, str(out), signatures=functions)
    text = json.dumps(metadata(model, None, "float32"), ensure_ascii=False, indent=1)
    (out / "metadata.json").write_text(text + "\n", encoding="utf-8")
    grey = np.full((64, 64, 3), 128, "uint8")
    encoded = {"encoded": [png(grey)]}
    write_warmup(
        out, (("serving_default", encoded), ("png", encoded), ("images", {"images": grey[None]}))
    )


def check(model, out, pictures):
    """The report about `out` in comparison with `model`, a dict; writes it to OUT.parity.json.

    Args:
        pictures: paths of pictures.
    """
    from comparison import summary, tolerance_of, write_report

    tolerance = tolerance_of(model, "SavedModel")
    pairs, problems, latency = _compare(model, out, pictures, tolerance)
    report = {"file": pathlib.Path(out).name, "system": type(model).__name__}
    report |= {"pictures": len(pictures)} | summary(pairs, tolerance)
    report["problems"] += problems
    files = [file for file in pathlib.Path(out).rglob("*") if file.is_file()]
    report |= {"file_bytes": sum(file.stat().st_size for file in files)}
    report |= {"operators": operators(out), "latency_ms": round(1000 * latency, 1)}
    write_report(out, report)
    return report


def _compare(model, out, pictures, tolerance):
    """(`Pairs` of each picture and endpoint, sentences about all else, seconds of a run)."""
    from comparison import answer_of_model, compare

    from pac_keras.predict import upright_image

    images = [upright_image(picture) for picture in pictures]
    answers = answers_of_fresh_process(
        out, [encoded(*one) for one in zip(pictures, images, strict=True)], images
    )
    pairs, problems = [], [str(problem) for problem in answers["problems"]]
    for index, image in enumerate(images):
        expected = answer_of_model(model, image)
        for endpoint in ("serving_default", "images"):
            got = found_in(answers, f"{endpoint}/{index}", image.shape[1])
            pairs.append(compare(expected, got, tolerance, model.max_detections))
    return pairs, problems, float(answers["seconds"])


def found_in(answers, prefix, width):
    """`Answer` of one picture of that width."""
    from comparison import Answer

    fields = {name: answers[f"{prefix}/{name}"] for name in Answer._fields}
    fields["masks"] = np.unpackbits(fields["masks"], axis=-1, count=width).astype(bool)
    return Answer(**fields)


def answers_of_fresh_process(out, encoded, images):
    """{"ENDPOINT/i/NAME": array}: what reloaded.py finds in a process without this project."""
    from command import fresh_process

    request = {f"image/{i}": image for i, image in enumerate(images)}
    for index, content in enumerate(encoded):
        request[f"encoded/{index}"] = np.frombuffer(content, "uint8")
    return fresh_process("reloaded.py", out, request)


def encoded(path, image):
    """The bytes to send for a picture: its file's own, or a PNG where that is turned or of a kind
    that the graph does not always read, or not as the library does.

    Args:
        image: uint8 `[H, W, 3]`, upright.
    """
    from pac_keras.data.image import exif_orientation

    if path.suffix.lower() in _SENT_AS_THEY_ARE and exif_orientation(path) == 1:
        return path.read_bytes()
    return png(image)


def png(image):
    """The bytes of a PNG of uint8 `[H, W, 3]`."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def operators(out):
    """{operator: how many} of a SavedModel's graphs."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    graph = SavedModel.FromString(pathlib.Path(out, "saved_model.pb").read_bytes())
    library = graph.meta_graphs[0].graph_def.library.function
    counts = collections.Counter(node.op for function in library for node in function.node_def)
    return dict(sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
