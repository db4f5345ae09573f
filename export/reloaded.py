"""What a SavedModel answers, with TensorFlow and NumPy alone.

    python export/reloaded.py SAVED_MODEL REQUEST.npz ANSWERS.npz

REQUEST holds, for each picture i, the file's bytes "encoded/i" and its pixels "image/i" (uint8).
ANSWERS gets "ENDPOINT/i/NAME" for both endpoints; of detections the valid rows, of masks the
picture's own part, packed to bits. Encoded pictures are sent two at a time.
"""

import sys

import numpy as np
import tensorflow as tf

_PER_REQUEST = 2  # encoded pictures, whatever their sizes
_STRANGERS = ("pac_keras", "keras_cv", "keras_hub")


def main():
    """Answers the request."""
    folder, request, answers = sys.argv[1:]
    loaded = tf.saved_model.load(folder)
    signatures = loaded.signatures
    collected = {}
    with np.load(request) as pictures:
        count = sum(name.startswith("image/") for name in pictures.files)
        for start in range(0, count, _PER_REQUEST):
            which = range(start, min(start + _PER_REQUEST, count))
            encoded = tf.constant([pictures[f"encoded/{i}"].tobytes() for i in which])
            _collect(collected, "serving_default", which, signatures["serving_default"], encoded)
        for i in range(count):
            image = tf.constant(pictures[f"image/{i}"][None])
            _collect(collected, "images", [i], signatures["images"], image)
    strangers = [name for name in _STRANGERS if name in sys.modules]
    if strangers:
        sys.exit(f"{folder}: was not loaded by TensorFlow alone: {strangers} were imported")
    np.savez(answers, **collected)


def _collect(collected, endpoint, pictures, function, value):
    """Adds the answers for `pictures`, which are the rows of `value`."""
    (name,) = function.structured_input_signature[1]
    answer = {key: tensor.numpy() for key, tensor in function(**{name: value}).items()}
    for row, picture in enumerate(pictures):
        valid, (height, width) = answer["valid"][row], answer["sizes"][row]
        for key, values in answer.items():
            if key == "masks":
                outside = int(values[row, :, height:].sum() + values[row, :, :, width:].sum())
                collected[f"{endpoint}/{picture}/outside"] = np.asarray(outside)
                own = values[row][valid][:, :height, :width]
                collected[f"{endpoint}/{picture}/masks"] = np.packbits(own, axis=-1)
            elif key not in ("valid", "sizes"):
                collected[f"{endpoint}/{picture}/{key}"] = values[row][valid]
        collected[f"{endpoint}/{picture}/size"] = answer["sizes"][row]


if __name__ == "__main__":
    main()
