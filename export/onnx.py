"""Writes a trained system as an .onnx file of one input size and proves that it answers the same.

    python export/onnx.py runs/shapes/model.keras shapes.onnx --size 256 256
    python export/onnx.py model.keras out/pac.onnx --size 800 1344 --pictures photos/

Wants `pip install tf2onnx onnx onnxruntime`; to run the file, onnxruntime is enough. Inputs:

    image   uint8 [1, H, W, 3], RGB: a picture at the top left, resized to fit
    size    int32 [1, 2], its (height, width) there

Outputs are the fields of `Detections` in pixels of that input. The file's metadata properties
(JSON each, see metadata.py) tell class names, the resize and the mask threshold. How a picture
becomes the input and the outputs objects is in examples/litert_predict.py, for another runtime.

Afterwards a fresh process that can import neither Keras nor TensorFlow answers for the pictures;
OUT.parity.json holds the differences, operators, file size and latency (this machine's CPU); the
exit status is 1 if the file differs from the model.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np

_OPSET = 15
_HERE = pathlib.Path(__file__).resolve().parent
_PHOTOGRAPHS = _HERE.parent / "tests" / "data" / "coco_eight" / "images"
_LEAST_PICTURES = 3


def main(arguments=None):
    """Exit status: 0; 1 if the answers differ; 2 after one line about a user's error."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's own chatter
    from saved_model import load

    options = _parser().parse_args(arguments)
    try:
        pictures = _pictures(options.pictures)
        model = load(options.model)
        if options.score_threshold is not None:
            model.score_threshold = options.score_threshold
        if options.max_detections is not None:
            model.max_detections = options.max_detections
        write(model, options.out, options.size)
    except (ImportError, ValueError, OSError) as error:
        print(f"onnx: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"{options.out}: written; now comparing")
    problems = check(model, options.out, pictures)
    for problem in problems:
        print(f"{options.out}: {problem}", file=sys.stderr)
    return 1 if problems else 0


def write(model, out, size):
    """Writes `out`, an .onnx file whose input has that (height, width).

    Raises:
        FileExistsError: `out` is there already.
        ValueError: another suffix, or a side that is no multiple of 32.
    """
    from fixed_graph import fixed_function
    from metadata import metadata

    out = pathlib.Path(out)
    if out.suffix != ".onnx":
        raise ValueError(f"{out}: expected a name that ends with .onnx")
    if out.exists():
        raise FileExistsError(f"{out}: is there already")
    onnx, _ = _packages()
    network = convert(fixed_function(model, *size))
    told = metadata(model, size, "float32").items()
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in told}
    onnx.helper.set_model_props(network, texts)
    out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(network, str(out))


def convert(function):
    """The ONNX network of a concrete function.

    Weights are kept out of tf2onnx's graph, as if they were more than 2 GB: it copies what is in it
    some forty times, which for a ResNet-50 is more memory than people have.
    """
    import tensorflow as tf

    onnx, tf2onnx = _packages()
    signature = [tf.TensorSpec(x.shape, x.dtype, x.name.split(":")[0]) for x in function.inputs[:2]]
    network, weights = tf2onnx.convert.from_function(
        tf.function(lambda image, size: function(image, size)),
        signature,
        opset=_OPSET,
        large_model=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, content in weights.name_to_tensor_data.items():
            pathlib.Path(folder, name).write_bytes(content)
        onnx.external_data_helper.load_external_data_for_model(network, folder)
    return network


def check(model, out, pictures):
    """What differs between `model` and the file `out`, sentences; writes OUT.parity.json.

    Args:
        pictures: the bytes of encoded pictures.
    """
    from comparison import own_pixels
    from file_parity import compare_all, write_report

    from pac_keras.data.image import read_image
    from pac_keras.served import lay_out
    from pac_keras.structures import Detections

    graph = _packages()[0].load(str(out)).graph
    canvas = tuple(side.dim_value for side in graph.input[0].type.tensor_type.shape.dim)[1:3]
    images = [read_image(content) for content in pictures]
    inputs = [lay_out(image, canvas, model.preprocessing) for image in images]
    found, seconds = answers_of_fresh_process(out, inputs)
    answers = [
        own_pixels(model, Detections(**fields), given["size"][0], image.shape[:2])
        for image, given, fields in zip(images, inputs, found, strict=True)
    ]
    problems, figures = compare_all(model, images, answers, canvas)
    report = {"file": pathlib.Path(out).name, "system": type(model).__name__, "size": canvas}
    report |= figures | {"operators": operators(graph), "file_bytes": os.path.getsize(out)}
    report |= {"latency_ms": round(1000 * seconds, 1), "problems": problems}
    print(f"{write_report(out, report)}: {figures}, {report['latency_ms']} ms")
    return problems


def answers_of_fresh_process(out, inputs):
    """({field: array} for each of `inputs`, seconds of a run): what reloaded_onnx.py finds in a
    process without Keras and TensorFlow."""
    request = {f"{i}/{name}": x for i, one in enumerate(inputs) for name, x in one.items()}
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in ("request.npz", "answers.npz")]
        np.savez(files[0], **request)
        command = [sys.executable, "-P", str(_HERE / "reloaded_onnx.py")]
        command += [str(pathlib.Path(out).resolve()), *files]
        subprocess.run(command, cwd=folder, check=True)
        with np.load(files[1]) as answers:
            answers = dict(answers)
    seconds, found = float(answers.pop("seconds")), [{} for _ in inputs]
    for name, values in answers.items():
        index, field = name.split("/")
        found[int(index)][field] = values
    return found, seconds


def operators(graph):
    """{operator: how many} of an ONNX graph and the graphs inside it."""
    counts = collections.Counter(node.op_type for node in graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.g.node:
                counts.update(operators(attribute.g))
    return dict(sorted(counts.items()))


def _pictures(sources):
    """The bytes of at least three pictures; by default real ones and drawn ones."""
    from saved_model import built_in_pictures, read_pictures

    if sources is None:
        return read_pictures([_PHOTOGRAPHS]) + built_in_pictures()
    pictures = read_pictures(sources)
    if len(pictures) < _LEAST_PICTURES:
        raise ValueError(f"--pictures: expected at least {_LEAST_PICTURES}, got {len(pictures)}")
    return pictures


def _packages():
    """The packages onnx and tf2onnx, the latter mended for NumPy 2 as Keras does it, and so that
    its passes do not leave copies of the weights behind.

    Raises:
        ImportError: one is missing; says how to install them.
    """
    try:
        with _package_called_as_this_script():
            import onnx.external_data_helper
            import onnx.helper
            import tf2onnx
            from keras.src.export.tf2onnx_lib import patch_tf2onnx
            from tf2onnx.optimizer.optimizer_base import GraphOptimizerBase
    except ImportError as error:
        raise ImportError(f"pip install tf2onnx onnx onnxruntime ({error})") from error
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of np.object
        patch_tf2onnx()
    GraphOptimizerBase.optimize = _optimize
    return onnx, tf2onnx


def _optimize(self, graph, iteration):
    """tf2onnx's `optimize` of a pass, without writing all protobufs anew after each: that happens
    at the end, too, and the memory of those before is never freed."""
    self.opt_iteration = iteration
    graph = self._optimize(graph)
    graph.delete_unused_nodes(graph.outputs)
    return graph


@contextlib.contextmanager
def _package_called_as_this_script():
    """Context in which `import onnx` finds the package, not this file, whose folder is on the path
    wherever a script of it runs."""
    before = sys.path[:]
    sys.path[:] = [entry for entry in sys.path if pathlib.Path(entry).resolve() != _HERE]
    try:
        yield
    finally:
        sys.path[:] = before


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a .keras file")
    parser.add_argument("out", help="the .onnx file, new")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        default=(512, 512),
        metavar=("H", "W"),
        help="of the input, multiples of 32; default 512 512",
    )
    parser.add_argument(
        "--pictures",
        nargs="+",
        metavar="FILE",
        help="files or folders of JPEG and PNG pictures to compare on, at least three; default the "
        "photographs in tests/data and two drawn ones",
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
