"""Requests that TensorFlow Serving answers itself when it loads a model, so that the first user
does not wait for it (TensorFlow).

Serving reads `PredictionLog` messages; their classes are in a package that nothing else here
needs. The few bytes around a TensorProto are written by hand: field numbers from
tensorflow_serving/apis/{prediction_log,predict,model}.proto.
"""

import pathlib

import tensorflow as tf

FILE = "assets.extra/tf_serving_warmup_requests"
_PREDICT_LOG, _REQUEST = 6, 1  # in PredictionLog, PredictLog
_MODEL_SPEC, _INPUTS = 1, 2  # in PredictRequest
_SIGNATURE_NAME = 3  # in ModelSpec
_KEY, _VALUE = 1, 2  # in a map's entry


def write_warmup(folder, requests):
    """Writes the file of a SavedModel's folder.

    Args:
        requests: (signature, {input: numpy array or bytes}) of each request.
    """
    file = pathlib.Path(folder, FILE)
    file.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for signature, inputs in requests:
            writer.write(prediction_log(signature, inputs))


def prediction_log(signature, inputs):
    """The bytes of a PredictionLog of one request."""
    request = _field(_MODEL_SPEC, _field(_SIGNATURE_NAME, signature.encode()))
    for name, value in inputs.items():
        proto = tf.make_tensor_proto(value).SerializeToString()
        request += _field(_INPUTS, _field(_KEY, name.encode()) + _field(_VALUE, proto))
    return _field(_PREDICT_LOG, _field(_REQUEST, request))


def _field(number, content):
    """A protobuf field of bytes: tag, length, content."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value):
    """`value` in groups of seven bits, the lowest first."""
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
