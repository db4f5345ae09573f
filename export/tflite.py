"""Writes a trained system as a LiteRT (TensorFlow Lite) file and proves that it answers the same.

    python export/tflite.py runs/shapes/model.keras shapes.tflite --size 256 256
    python export/tflite.py model.keras phone.tflite --precision float16
    python export/tflite.py model.keras phone.tflite --precision int8 --representative photos/

Wants `pip install ai-edge-litert`, which is also all that runs the file (with NumPy and Pillow:
export/examples/litert_predict.py). Only built-in operators are in it. Inputs:

    image   uint8 [1, H, W, 3], RGB: a picture at the top left, resized to fit
    size    int32 [1, 2], its (height, width) there

Outputs are the fields of `Detections` in pixels of that input. The file ends with a zip archive
with metadata.json: categories, preprocessing, mask threshold, input size (see metadata.py).

Precision: float32; float16 (large weights; half the size); dynamic (int8 weights); int8 (weights
and activations of the network; what turns them into boxes stays float32: see tflite_int8.py).

Afterwards a fresh process that can import neither Keras nor TensorFlow answers for the pictures
through that example. OUT.parity.json holds the differences, operators, file size and latency (this
machine's CPU, two threads); the exit status is 1 if they are beyond tolerance (comparison.py).
"""

import pathlib
import sys

import numpy as np

PRECISIONS = ("float32", "float16", "dynamic", "int8")


def main(arguments=None):
    """Exit status: 0; 1 if the answers differ; 2 after one line about a user's error."""
    import command

    parser = command.parser(__doc__, "the .tflite file, new", fixed_size=True)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument(
        "--representative",
        nargs="+",
        metavar="FILE",
        default=(),
        help="files or folders of pictures on which int8 activations are measured",
    )
    options = parser.parse_args(arguments)

    def write_with_options(model):
        representative = command.picture_paths(options.representative)
        write(model, options.out, options.size, options.precision, representative)

    return command.run(
        options, write_with_options, lambda model, pictures: check(model, options.out, pictures)
    )


def write(model, out, size, precision="float32", representative=()):
    """Writes `out`, a .tflite file whose input has that (height, width).

    Args:
        precision: one of `PRECISIONS`.
        representative: paths of pictures on which int8 files measure their activations.

    Raises:
        FileExistsError: `out` is there already.
        ModuleNotFoundError: ai-edge-litert is missing.
        ValueError: another suffix, a side that is no multiple of 32, no representative pictures.
        RuntimeError: the file would need operators that LiteRT has not built in.
    """
    from fixed_graph import fixed_function
    from metadata import metadata
    from tflite_file import counts, schema, with_metadata

    out = pathlib.Path(out)
    if out.suffix != ".tflite":
        raise ValueError(f"{out}: expected a name that ends with .tflite")
    if out.exists():
        raise FileExistsError(f"{out}: is there already")
    if precision == "int8" and not representative:
        raise ValueError("int8 needs pictures like those to come: --representative FOLDER")
    schema()
    content = convert(fixed_function(model, *size), precision, model, representative)
    foreign = [name for name in counts(content) if name.startswith("CUSTOM")]
    if foreign:
        raise RuntimeError(f"{out}: needs operators that are not built in: {', '.join(foreign)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(with_metadata(content, metadata(model, size, precision)))


def convert(function, precision, model, representative=()):
    """The file's bytes, still without metadata; see `write`.

    Args:
        function: concrete function of `fixed_graph`.
    """
    import tensorflow as tf

    if precision == "int8":
        from tflite_int8 import quantise

        converters = _converter(function), _converter(function)
        return quantise(converters, model, representative, tuple(function.inputs[0].shape[1:3]))
    converter = _converter(function)
    if precision == "dynamic":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    content = converter.convert()
    if precision == "float16":
        from tflite_float16 import halve

        return halve(content)
    return content


def _converter(function):
    """A TFLiteConverter for built-in operators only; it converts once."""
    import tensorflow as tf

    holder = tf.Module()  # of a Keras model the variables' values would be lost
    holder.kept = list(function.variables)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], holder)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter


def check(model, out, pictures):
    """The report about `out` in comparison with `model`, a dict; writes it to OUT.parity.json.

    Args:
        pictures: paths of pictures.
    """
    from comparison import summary, tolerance_of, write_report
    from tflite_file import read_metadata

    told = read_metadata(out)
    size = told["input"]["height"], told["input"]["width"]
    tolerance = tolerance_of(model, told["precision"])
    pairs, seconds = _compare(model, out, pictures, size, tolerance)
    report = {"file": pathlib.Path(out).name, "system": type(model).__name__, "size": size}
    report |= {"precision": told["precision"], "pictures": len(pictures)} | summary(
        pairs, tolerance
    )
    report |= _file_figures(out) | {"latency_ms": round(1000 * float(np.median(seconds)), 1)}
    write_report(out, report)
    return report


def _compare(model, out, pictures, size, tolerance):
    """(`Pairs` of each picture, seconds of some runs); `size` is (height, width) of the input."""
    from comparison import answer_of_model, compare

    from pac_keras.predict import upright_image
    from pac_keras.served import fitted_size

    answers, seconds = answers_of_fresh_process(out, pictures)
    pairs = []
    for picture, got in zip(pictures, answers, strict=True):
        image = upright_image(picture)
        fitted = fitted_size(*image.shape[:2], size, model.preprocessing)
        scale = np.divide(fitted, image.shape[:2])
        expected = answer_of_model(model, image, size)
        pairs.append(compare(expected, got, tolerance, model.max_detections, scale))
    return pairs, seconds


def answers_of_fresh_process(out, pictures):
    """(`Answer` for each picture, seconds of some runs), without this project."""
    from command import fresh_process
    from comparison import Answer

    paths = [str(pathlib.Path(picture).resolve()) for picture in pictures]
    answers = fresh_process("reloaded_tflite.py", out, {"pictures": np.asarray(paths)})
    found = []
    for index in range(len(pictures)):
        one = {name: answers[f"{index}/{name}"] for name in Answer._fields}
        width = int(answers[f"{index}/width"])
        one["masks"] = np.unpackbits(one["masks"], axis=-1, count=width).astype(bool)
        found.append(Answer(**one))
    return found, answers["seconds"]


def _file_figures(out):
    """The report's part about the file itself."""
    from tflite_file import CONVOLUTIONS, counts, operators

    content = pathlib.Path(out).read_bytes()
    found = [one for one in operators(content) if one.kind in CONVOLUTIONS]
    whole = sum(one.macs for one in found)
    figures = {
        "file_bytes": len(content),
        "operators": counts(content),
        "convolution_macs": whole,
        "int8_share_of_convolution_macs": sum(x.macs for x in found if x.is_int8) / max(whole, 1),
    }
    if figures["int8_share_of_convolution_macs"]:
        figures["float_convolutions"] = {x.names[0]: x.macs for x in found if not x.is_int8}
    return figures


if __name__ == "__main__":
    sys.exit(main())
