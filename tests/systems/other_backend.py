"""What a saved PAC answers on this backend: `other_backend.py MODEL.keras BATCH.npz OUT.npz`."""

import sys

import keras
import numpy as np
import tiny
from keras import ops

from pac_keras import Batch, GroundTruth, Images


def main(model_path, batch_path, path):
    """Writes detections, losses, and the weights after one training step."""
    model = tiny.fix_proposals(keras.models.load_model(model_path))
    with np.load(batch_path) as arrays:
        images = Images(*(arrays[name] for name in Images._fields))
        batch = Batch(images, GroundTruth(*(arrays[name] for name in GroundTruth._fields)))
    model.run_eagerly = keras.backend.backend() == "tensorflow"  # tracing would take longer
    found = model.predict(batch.images, verbose=0)
    history = model.fit(_once(batch), steps_per_epoch=1, verbose=0).history
    results = {f"detections:{k}": v for k, v in found._asdict().items()}
    results |= {f"losses:{k}": v[0] for k, v in history.items()}
    variables = [v for v in model.weights if "seed" not in v.path]
    results |= {f"weights:{i} {v.name}": ops.convert_to_numpy(v) for i, v in enumerate(variables)}
    np.savez(path, backend=keras.backend.backend(), **results)


def _once(batch):
    """The batch as data for `fit`, which wants a generator without TensorFlow."""
    return (
        tiny.dataset([batch])
        if keras.backend.backend() == "tensorflow"
        else (each for each in [batch])
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
