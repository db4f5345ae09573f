"""What a .tflite file answers, in a process that has neither TensorFlow nor Keras.

    python -P export/reloaded_tflite.py FILE.tflite REQUEST.npz ANSWERS.npz

The application export/examples/litert_predict.py is what runs. REQUEST holds "pictures", the paths
of pictures. ANSWERS gets, for each picture i, "i/NAME" for the fields of its `Objects` (masks
packed to bits) and "i/width", and "seconds" of further runs.
"""

import sys

_BLOCKED = ("tensorflow", "keras", "pac_keras", "jax", "torch", "pycocotools", "matplotlib")
_TIMED_RUNS = 5
sys.modules.update(dict.fromkeys(_BLOCKED))  # importing one of them raises

import pathlib  # noqa: E402

import numpy as np  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "examples"))

from litert_predict import Detector, read_picture  # noqa: E402


def main():
    """Answers for the pictures."""
    file, request, answers = sys.argv[1:]
    with np.load(request) as given:
        pictures = [str(path) for path in given["pictures"]]
    detector = Detector(file, threads=2)
    collected = {}
    for index, picture in enumerate(pictures):
        image = read_picture(picture)
        collected[f"{index}/width"] = image.shape[1]
        for name, values in detector(image)._asdict().items():
            values = np.packbits(values, axis=-1) if name == "masks" else values
            collected[f"{index}/{name}"] = values
    seconds = []
    for _ in range(_TIMED_RUNS):
        detector(image, score_threshold=2.0)
        seconds.append(detector.seconds)
    np.savez(answers, seconds=seconds, **collected)


if __name__ == "__main__":
    main()
