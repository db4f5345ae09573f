"""Full-integer quantisation of a network's convolutions; everything else stays float32.

Boxes, scores and what chooses them mean nothing at 256 steps: a coordinate would be rounded to
several pixels. So only convolutions and what lies between them become int8, and of the
convolutions not the last ones, whose outputs are deltas, logits or vectors.
"""

from tflite_file import CONVOLUTIONS, operators, schema

_BETWEEN = ("PAD", "PADV2", "MAX_POOL_2D", "AVERAGE_POOL_2D", "RELU", "ADD", "CONCATENATION")


def quantise(converters, model, pictures, canvas):
    """The bytes of a file whose network computes in int8.

    Args:
        converters: two tf.lite.TFLiteConverters of the same function, not yet run.
        model: the system, for its preprocessing.
        pictures: paths; on them the ranges of activations are measured.
        canvas: (height, width) of the input.
    """
    import tensorflow as tf

    from pac_keras.predict import upright_image
    from pac_keras.served import lay_out

    def inputs():
        for path in pictures:
            yield lay_out(upright_image(path), canvas, model.preprocessing)

    plain, converter = converters
    graph = operators(plain.convert(), main_only=True)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = inputs
    options = tf.lite.experimental.QuantizationDebugOptions(
        denylisted_ops=sorted({one.kind for one in graph} - {*CONVOLUTIONS, *_BETWEEN}),
        denylisted_nodes=float_names(graph),
    )
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=inputs, debug_options=options
    )
    return without_round_trips(bytes(debugger.get_nondebug_quantized_model()))


def without_round_trips(content):
    """The file without float values that become int8 and float again, which only rounds them.

    The quantiser leaves such pairs around operators that it then keeps as they were.
    """
    import flatbuffers

    model = schema().ModelT.InitFromObj(schema().Model.GetRootAs(content, 0))
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    for graph in model.subgraphs:
        _skip_round_trips(graph, codes)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _skip_round_trips(graph, codes):
    """Lets what reads the end of a round trip read its beginning, and removes the trip."""
    known = schema().BuiltinOperator
    kinds = [codes[one.opcodeIndex] for one in graph.operators]
    steps = list(zip(kinds, graph.operators, strict=True))
    before = {x.outputs[0]: x.inputs[0] for kind, x in steps if kind == known.QUANTIZE}
    begins = {}
    for kind, operator in steps:
        tensor = operator.inputs[0] if kind == known.DEQUANTIZE else None
        while tensor in before:
            tensor = before[tensor]
            if graph.tensors[tensor].type == schema().TensorType.FLOAT32:
                begins[operator.outputs[0]] = tensor
    for operator in graph.operators:
        if operator.inputs is not None:
            operator.inputs = [begins.get(x, x) for x in operator.inputs]
    graph.outputs = [begins.get(x, x) for x in graph.outputs]
    used, kept = set(graph.outputs), []
    for kind, operator in reversed(steps):
        if kind in (known.QUANTIZE, known.DEQUANTIZE) and operator.outputs[0] not in used:
            continue
        used |= set(() if operator.inputs is None else operator.inputs)
        kept.append(operator)
    graph.operators = kept[::-1]


def float_names(graph):
    """Names of the operators of a float file that must not become int8.

    A convolution becomes int8 if another one follows, either with nothing but `_BETWEEN` in
    between, or in the same layer with anything in between (a normalisation, say).

    Args:
        graph: its `Operator`s.
    """
    consumers = {}
    for row, operator in enumerate(graph):
        for tensor in operator.inputs:
            consumers.setdefault(tensor, []).append(row)
    near, layers, kept = [False] * len(graph), [frozenset()] * len(graph), []
    for row in reversed(range(len(graph))):
        operator = graph[row]
        after = [x for tensor in operator.outputs for x in consumers.get(tensor, ())]
        followed = any(graph[x].kind in CONVOLUTIONS or near[x] for x in after)
        near[row] = followed and _is_between(operator)
        behind = frozenset().union(*(layers[x] for x in after))
        if operator.kind in CONVOLUTIONS:
            near[row], same_layer = False, bool(behind & _layers(operator))
            layers[row] = behind | _layers(operator)
            if not (followed or same_layer):
                kept += operator.names
        else:
            layers[row] = behind
            kept += () if near[row] else operator.names
    return kept


def _is_between(operator):
    """Whether it works on maps `[N, h, w, C]` inside a layer, in a way that int8 can express."""
    return operator.kind in _BETWEEN and len(operator.shape) == 4 and bool(_layers(operator))


def _layers(operator):
    """Names of the outermost layers that an operator belongs to."""
    return {part.split("/")[0] for part in operator.names[0].split(";") if "/" in part}
