"""What is in a .tflite file: operators, how its convolutions compute, metadata."""

import collections
import io
import json
import zipfile
from typing import NamedTuple

import numpy as np

METADATA_FILE = "metadata.json"
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")


class Operator(NamedTuple):
    """One operator: `kind` is its name in the format ("CUSTOM name" where it is not built in),
    `inputs` and `outputs` are numbers of tensors, `names` those of its outputs, `shape` that of the
    first; macs and is_int8 are told of convolutions."""

    kind: str
    inputs: tuple
    outputs: tuple
    names: tuple
    shape: tuple
    macs: int
    is_int8: bool


def schema():
    """The module that reads the format.

    Raises:
        ModuleNotFoundError: ai-edge-litert is not installed; says how to.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise ModuleNotFoundError(
            "ai-edge-litert is missing, which reads and runs .tflite files: "
            "pip install ai-edge-litert"
        ) from error
    return schema_py_generated


def counts(content):
    """{name of operator: how often} in all subgraphs of a file's bytes."""
    return dict(sorted(collections.Counter(one.kind for one in operators(content)).items()))


def operators(content, main_only=False):
    """List of `Operator`s in the order in which they run; loops' bodies are subgraphs behind it."""
    model = schema().Model.GetRootAs(content, 0)
    known = vars(schema().BuiltinOperator)
    names = {code: name for name, code in known.items() if not name.startswith("_")}
    found = []
    for index in range(1 if main_only else model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        for row in range(graph.OperatorsLength()):
            operator = graph.Operators(row)
            code = model.OperatorCodes(operator.OpcodeIndex())
            kind = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            kind = f"CUSTOM {code.CustomCode().decode()}" if kind == "CUSTOM" else kind
            found.append(_operator(graph, operator, kind))
    return found


def with_metadata(content, metadata):
    """The file's bytes followed by a zip archive with metadata.json, which readers ignore.

    That is how TensorFlow Lite's own metadata tools attach files.
    """
    file = io.BytesIO(content)
    file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(METADATA_FILE, json.dumps(metadata, ensure_ascii=False, indent=1))
    return file.getvalue()


def read_metadata(path):
    """The dict that `with_metadata` attached."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(METADATA_FILE))


def _operator(graph, operator, kind):
    inputs = tuple(int(x) for x in operator.InputsAsNumpy()) if operator.InputsLength() else ()
    outputs = tuple(int(x) for x in operator.OutputsAsNumpy()) if operator.OutputsLength() else ()
    names = tuple(graph.Tensors(x).Name().decode() for x in outputs)
    shape = _shape(graph, outputs[0]) if outputs else ()
    macs, is_int8 = 0, False
    if kind in CONVOLUTIONS:
        # TRANSPOSE_CONV: (output's shape, kernel, input), and each input cell meets the kernel.
        data, kernel = inputs[2 if kind == "TRANSPOSE_CONV" else 0], inputs[1]
        places = _shape(graph, data if kind == "TRANSPOSE_CONV" else outputs[0])[:3]
        macs = int(np.prod(places) * np.prod(_shape(graph, kernel)))
        int8 = schema().TensorType.INT8
        is_int8 = all(graph.Tensors(x).Type() == int8 for x in (data, kernel, outputs[0]))
    return Operator(kind, inputs, outputs, names, shape, macs, is_int8)


def _shape(graph, tensor):
    tensor = graph.Tensors(tensor)
    return tuple(int(side) for side in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()
