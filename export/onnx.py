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
exit status is 1 if the file differs from the model (comparison.py).
"""

import collections
import contextlib
import json
import os
import pathlib
import sys
import tempfile
import warnings

import numpy as np

_OPSET = 15
_HERE = pathlib.Path(__file__).resolve().parent


def main(arguments=None):
    """Exit status: 0; 1 if the answers differ; 2 after one line about a user's error."""
    import command

    parser = command.parser(__doc__, "the .onnx file, new", fixed_size=True)
    options = parser.parse_args(arguments)
    return command.run(
        options,
        lambda model: write(model, options.out, options.size),
        lambda model, pictures: check(model, options.out, pictures),
    )


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
    make_portable(network.graph)
    return network


def make_portable(graph):
    """Takes out what OpenVINO refuses to read and nothing needs: states of a Loop that no iteration
    changes (its body reads the outer tensor instead) and `Unsqueeze` along no axis."""
    for loop in [node for node in graph.node if node.op_type == "Loop"]:
        (body,) = (attribute.g for attribute in loop.attribute if attribute.name == "body")
        for state in reversed(range(len(loop.input) - 2)):  # after count and condition
            inside, outside = body.input[state + 2].name, loop.input[state + 2]
            if body.output[state + 1].name == inside:
                _read_instead(body.node, inside, outside)
                _read_instead(graph.node, loop.output[state], outside)
                del loop.input[state + 2], loop.output[state]
                del body.input[state + 2], body.output[state + 1]
    empty = {one.name for one in graph.initializer if list(one.dims) == [0]}
    for node in [node for node in graph.node if node.op_type == "Unsqueeze"]:
        if node.input[1] in empty:
            _read_instead(graph.node, node.output[0], node.input[0])
            graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for one in [one for one in graph.initializer if one.name in empty - used]:
        graph.initializer.remove(one)


def _read_instead(nodes, old, new):
    """Lets `nodes`, and those in their bodies, read the tensor `new` where they read `old`."""
    for node in nodes:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new
        for attribute in node.attribute:
            _read_instead(attribute.g.node, old, new)


def check(model, out, pictures):
    """The report about `out` in comparison with `model`, a dict; writes it to OUT.parity.json.

    Args:
        pictures: paths of pictures.
    """
    from comparison import answer_of_model, compare, own_pixels, summary, tolerance_of, write_report

    from pac_keras.predict import upright_image
    from pac_keras.served import lay_out

    graph = _packages()[0].load(str(out)).graph
    canvas = tuple(side.dim_value for side in graph.input[0].type.tensor_type.shape.dim)[1:3]
    images = [upright_image(picture) for picture in pictures]
    inputs = [lay_out(image, canvas, model.preprocessing) for image in images]
    answers, seconds = answers_of_fresh_process(out, inputs)
    tolerance, pairs = tolerance_of(model, "float32"), []
    for image, given, found in zip(images, inputs, answers, strict=True):
        size, original = given["size"][0], image.shape[:2]
        both = answer_of_model(model, image, canvas), own_pixels(model, found, size, original)
        scale = np.divide(size, original)
        pairs.append(compare(*both, tolerance, model.max_detections, scale))
    report = {"file": pathlib.Path(out).name, "system": type(model).__name__, "size": canvas}
    report |= {"precision": "float32", "pictures": len(pictures)} | summary(pairs, tolerance)
    report |= {"file_bytes": os.path.getsize(out), "operators": operators(graph)}
    report |= {"latency_ms": round(1000 * seconds, 1)}
    write_report(out, report)
    return report


def answers_of_fresh_process(out, inputs):
    """(`Detections` for each of `inputs`, seconds of a run), without Keras and TensorFlow."""
    from command import fresh_process

    from pac_keras.structures import Detections

    request = {f"{i}/{name}": x for i, one in enumerate(inputs) for name, x in one.items()}
    answers = fresh_process("reloaded_onnx.py", out, request)
    fields = Detections._fields
    found = [Detections(*(answers[f"{i}/{name}"] for name in fields)) for i in range(len(inputs))]
    return found, float(answers["seconds"])


def operators(graph):
    """{operator: how many} of an ONNX graph and the graphs inside it."""
    counts = collections.Counter(node.op_type for node in graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.g.node:
                counts.update(operators(attribute.g))
    return dict(sorted(counts.items()))


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


if __name__ == "__main__":
    sys.exit(main())
