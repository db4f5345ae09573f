"""What a SavedModel answers, with TensorFlow and NumPy alone.

    python -P export/reloaded.py SAVED_MODEL REQUEST.npz ANSWERS.npz

REQUEST holds, for each picture i, the file's bytes "encoded/i" and its pixels "image/i" (uint8).
ANSWERS gets "ENDPOINT/i/NAME" for the endpoints serving_default and images; of detections the valid
rows, of masks the picture's own part, packed to bits; "problems", sentences about what is wrong
within the answers; "seconds", the median time of further runs of the last picture. Encoded pictures
are sent two at a time with one that cannot be read.
"""

import sys
import time

_BLOCKED = ("pac_keras", "keras", "keras_cv", "keras_hub")
_TIMED_RUNS = 5
_PER_REQUEST = 2  # encoded pictures, whatever their sizes
sys.modules.update(dict.fromkeys(_BLOCKED))  # importing one of them raises

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402


def main():
    """Answers the request."""
    folder, request, answers = sys.argv[1:]
    signatures = tf.saved_model.load(folder).signatures
    collected, problems = {}, []
    with np.load(request) as pictures:
        count = sum(name.startswith("image/") for name in pictures.files)
        for start in range(0, count, _PER_REQUEST):
            which = list(range(start, min(start + _PER_REQUEST, count)))
            encoded = [pictures[f"encoded/{i}"].tobytes() for i in which] + [b"no picture"]
            answer = _run(signatures["serving_default"], tf.constant(encoded))
            problems += _collect(collected, "serving_default", which, answer)
            problems += _wrong_errors(answer["errors"])
            problems += _wrong_png(_run(signatures["png"], tf.constant(encoded)), answer)
        for i in range(count):
            image = tf.constant(pictures[f"image/{i}"][None])
            problems += _collect(collected, "images", [i], _run(signatures["images"], image))
    seconds = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        _run(signatures["images"], image)
        seconds.append(time.perf_counter() - start)
    np.savez(answers, seconds=np.median(seconds), problems=np.asarray(problems, str), **collected)


def _run(function, value):
    """{output: array} of an endpoint with one input."""
    (name,) = function.structured_input_signature[1]
    return {key: tensor.numpy() for key, tensor in function(**{name: value}).items()}


def _collect(collected, endpoint, pictures, answer):
    """Adds the answers for `pictures`, the first rows; masks beyond their pictures are problems."""
    problems = []
    for row, picture in enumerate(pictures):
        valid, (height, width) = answer["valid"][row], answer["sizes"][row]
        for key in ("boxes", "labels", "category_ids", "names", "scores", "box_scores"):
            values = answer[key][row][valid]
            collected[f"{endpoint}/{picture}/{key}"] = (
                values.astype("S") if key == "names" else values
            )
        masks = answer["masks"][row]
        collected[f"{endpoint}/{picture}/masks"] = np.packbits(
            masks[valid][:, :height, :width], axis=-1
        )
        collected[f"{endpoint}/{picture}/size"] = answer["sizes"][row]
        if masks[:, height:].any() or masks[:, :, width:].any():
            problems.append(f"{endpoint}: a mask of picture {picture} reaches out of the picture")
    return problems


def _wrong_errors(errors):
    """Problems of the error entries: the last picture has one, the others do not."""
    if not errors[-1] or any(errors[:-1]):
        return [f"serving_default: errors {list(errors)}, expected one for the last picture alone"]
    return []


def _wrong_png(answer, dense):
    """Problems of the masks as PNG: they are those of `dense`."""
    for row, size in enumerate(dense["sizes"]):
        for one, mask in zip(answer["masks_bytes"][row], dense["masks"][row], strict=True):
            drawn = tf.io.decode_png(one).numpy()[..., 0] > 0 if one else np.zeros(size, bool)
            if not np.array_equal(drawn, mask[: size[0], : size[1]]):
                return [f"png: a mask of picture {row} is not the one of serving_default"]
    return []


if __name__ == "__main__":
    main()
