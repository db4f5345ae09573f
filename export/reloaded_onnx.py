"""What an .onnx file answers, with ONNX Runtime and NumPy alone.

    python -P export/reloaded_onnx.py MODEL.onnx REQUEST.npz ANSWERS.npz

REQUEST holds "i/image" and "i/size", the file's inputs for picture i. ANSWERS gets "i/FIELD" for
each output, and "seconds", the median time of further runs. -P keeps this folder, in which a script
is called onnx.py, off the path.
"""

import sys
import time

_BLOCKED = ("tensorflow", "keras", "pac_keras", "jax", "torch", "tf2onnx")
_TIMED_RUNS = 5
sys.modules.update(dict.fromkeys(_BLOCKED))  # importing one of them raises

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402


def main():
    """Answers the request."""
    file, request, answers = sys.argv[1:]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    collected, seconds = {}, []
    with np.load(request) as given:
        for i in range(len(given.files) // 2):
            inputs = {name: given[f"{i}/{name}"] for name in ("image", "size")}
            found = session.run(None, inputs)
            collected |= {f"{i}/{name}": x for name, x in zip(names, found, strict=True)}
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        session.run(None, inputs)
        seconds.append(time.perf_counter() - start)
    np.savez(answers, seconds=np.median(seconds), **collected)


if __name__ == "__main__":
    main()
