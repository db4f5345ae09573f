"""Half precision for the large weights of a .tflite file.

TensorFlow's converter rounds every constant to eleven bits. The small ones, a few per cent of the
file, cost most of the accuracy (docs/results.md, "Every kind of file"), so they stay as they are.
"""

import flatbuffers
import numpy as np
from tflite_file import schema

SHARE = 0.95  # of all numbers, the largest arrays first, that are stored in half precision
_FLOAT16_VERSION = 3  # of DEQUANTIZE: the first that reads float16


def halve(content):
    """The file's bytes with its large float32 constants stored as float16.

    Each gets a DEQUANTIZE in front of the graph, which runs once or within the operators.
    """
    model = schema().ModelT.InitFromPackedBuf(content, 0)
    buffers = _large_buffers(model)
    halves = {index: _half_of(model, index) for index in buffers}
    code = _operator_code(model)
    for graph in model.subgraphs:
        dequantized = []
        for number, tensor in enumerate(list(graph.tensors)):
            if tensor.buffer in halves:
                graph.tensors.append(_half_tensor(tensor, halves[tensor.buffer]))
                dequantized.append(_dequantize(code, len(graph.tensors) - 1, number))
                tensor.buffer = 0  # empty: computed
        graph.operators = dequantized + list(graph.operators)
    for index in buffers:
        model.buffers[index].data = None
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _large_buffers(model):
    """Indices of the buffers of the largest float32 constants, `SHARE` of them by size."""
    float32 = schema().TensorType.FLOAT32
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    others = {tensor.buffer for tensor in tensors if tensor.type != float32}
    sizes = {}
    for tensor in tensors:
        data = model.buffers[tensor.buffer].data
        if data is not None and len(data) and tensor.buffer not in others:
            sizes[tensor.buffer] = len(data)
    wanted, chosen = SHARE * sum(sizes.values()), []
    for index in sorted(sizes, key=sizes.get, reverse=True):
        if sum(sizes[one] for one in chosen) >= wanted:
            break
        chosen.append(index)
    return chosen


def _half_of(model, index):
    """The index of a new buffer with the numbers of a float32 buffer as float16."""
    numbers = np.frombuffer(np.asarray(model.buffers[index].data, "uint8").tobytes(), "float32")
    buffer = schema().BufferT()
    buffer.data = np.frombuffer(numbers.astype("float16").tobytes(), "uint8")
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def _half_tensor(tensor, buffer):
    """The constant of float16 beside a tensor of float32."""
    half = schema().TensorT()
    half.shape, half.buffer = tensor.shape, buffer
    half.name = tensor.name + b"/float16"
    half.type = schema().TensorType.FLOAT16
    return half


def _dequantize(code, source, target):
    """The operator that makes tensor `target` of tensor `source`."""
    operator = schema().OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, [source], [target]
    operator.builtinOptionsType = schema().BuiltinOptions.DequantizeOptions
    operator.builtinOptions = schema().DequantizeOptionsT()
    return operator


def _operator_code(model):
    """The index of DEQUANTIZE among the file's kinds of operators; adds it."""
    kind = schema().OperatorCodeT()
    kind.builtinCode = kind.deprecatedBuiltinCode = schema().BuiltinOperator.DEQUANTIZE
    kind.version = _FLOAT16_VERSION
    model.operatorCodes.append(kind)
    return len(model.operatorCodes) - 1
