"""Exported files in the place of a model, so that AP is measured on the file that ships.

A SavedModel folder, an .onnx or a .tflite file takes pictures as they are stored and answers in
their own pixels. `load` gives what `evaluation.coco` asks of a model, `StoredPictures` what it asks
of a data set; `predict_file` is `pac_keras.predict` of one file.
"""

import json
import zipfile
from pathlib import Path

import numpy as np

from pac_keras.data.image import Preprocessing, resize_image, target_size
from pac_keras.detections.paste import instances, picture
from pac_keras.predict import upright_image
from pac_keras.structures import IGNORED_PIXEL, Batch, Detections, GroundTruth, Images

FIXED = (".onnx", ".tflite")  # files of one input size


def is_exported(path):
    """Whether `path` is a folder, or has the suffix of a file, that `load` reads."""
    return Path(path).is_dir() or Path(path).suffix in FIXED


def load(path):
    """The `ServedModel` in a SavedModel folder, an .onnx or a .tflite file.

    Raises:
        FileNotFoundError, ValueError: no such file, or none that export/ wrote.
        ImportError: the package that runs it is missing; says how to install it.
    """
    path = Path(path)
    if path.is_dir():
        return _load_saved_model(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such model file")
    run, metadata = (_open_onnx if path.suffix == ".onnx" else _open_tflite)(path)
    if missing := {"categories", "input", "mask_threshold", "resize"} - set(metadata):
        raise ValueError(
            f"{path}: does not tell its {', '.join(sorted(missing))}: export/ did not write it"
        )
    return ServedModel(metadata, _detect_on_canvas(run, metadata))


class ServedModel:
    """An exported file with the face of a model.

    Args:
        metadata: dict as export/metadata.py writes it.
        detect: uint8 `[H, W, 3]` -> `Detections` of one picture, numpy, in that picture's pixels.
    """

    def __init__(self, metadata, detect):
        self.categories = tuple((one["id"], one["name"]) for one in metadata["categories"])
        self.num_classes = len(self.categories)
        self.preprocessing = _preprocessing(metadata)
        self.mask_threshold = metadata["mask_threshold"]
        self._detect = detect

    def predict_on_batch(self, images):
        """`Detections`, numpy, of `Images` that hold one stored picture, uint8 `[1, H, W, 3]`."""
        (image,) = images.pixels
        return Detections(*(leaf[None] for leaf in self._detect(image)))


class StoredPictures:
    """The pictures of a source as they are stored, one by one, without their objects."""

    training = False

    def __init__(self, source):
        self.source = source
        self.categories = tuple(source.categories)
        self.num_classes = len(self.categories)

    def __len__(self):
        return len(self.source)

    def __iter__(self):
        for index, image_id in enumerate(self.source.image_ids):
            yield Batch(_alone(self.source[index].image), _no_objects(image_id))


def predict_file(model, file, *, score_threshold=0.3):
    """`Instances` that a `ServedModel` finds in a picture's file, as it is displayed."""
    image = upright_image(file)
    return instances(
        picture(model.predict_on_batch(_alone(image)), 0),
        (1.0, 1.0),
        image.shape[:2],
        categories=model.categories,
        threshold=model.mask_threshold,
        score_threshold=score_threshold,
        file=str(file),
    )


def fitted_size(height, width, canvas, preprocessing):
    """(height, width) that a picture is resized to: as in training, but at most the canvas.

    Args:
        height, width: of the picture.
        canvas: (height, width).
    """
    wanted = target_size(height, width, preprocessing)
    if not preprocessing.keep_ratio:
        return min(wanted[0], canvas[0]), min(wanted[1], canvas[1])
    if wanted[0] <= canvas[0] and wanted[1] <= canvas[1]:
        return wanted
    scale = min(canvas[0] / height, canvas[1] / width)
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def lay_out(image, canvas, preprocessing):
    """The inputs of a file of one size for a picture, uint8 `[H, W, 3]`.

    image: uint8 `[1, height, width, 3]`, the picture at the top left of `canvas` = (height, width).
    size: int32 `[1, 2]`, its (height, width) there.
    """
    size = fitted_size(*image.shape[:2], canvas, preprocessing)
    pixels = np.zeros((1, *canvas, 3), "uint8")
    pixels[0, : size[0], : size[1]] = resize_image(image, size)
    return {"image": pixels, "size": np.asarray([size], "int32")}


def _detect_on_canvas(run, metadata):
    """`detect` of a `ServedModel` by `run`: the inputs of `lay_out` -> {field}."""
    preprocessing = _preprocessing(metadata)
    canvas = metadata["input"]["height"], metadata["input"]["width"]

    def detect(image):
        inputs = lay_out(image, canvas, preprocessing)
        found = picture(Detections(**run(**inputs)), 0)
        edges = np.tile(np.divide(inputs["size"][0], image.shape[:2])[::-1], 2).astype("float32")
        return found._replace(boxes=found.boxes / edges, mask_frames=found.mask_frames / edges)

    return detect


def _open_onnx(path):
    """(run, metadata) of an .onnx file."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"{path}: needs ONNX Runtime: pip install onnxruntime") from error
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # a class of its own for each kind of damage
        raise ValueError(f"{path}: ONNX Runtime cannot load it: {error}") from error
    names = [output.name for output in session.get_outputs()]
    known = session.get_modelmeta().custom_metadata_map

    def run(**inputs):
        return dict(zip(names, session.run(None, inputs), strict=True))

    return run, {name: json.loads(text) for name, text in known.items()}


def _open_tflite(path):
    """(run, metadata) of a .tflite file, which a zip archive with metadata.json may follow."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(f"{path}: needs LiteRT: pip install ai-edge-litert") from error
    try:
        run = Interpreter(str(path)).get_signature_runner()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: LiteRT cannot load it: {error}") from error
    if not zipfile.is_zipfile(path):
        return run, {}
    with zipfile.ZipFile(path) as archive:
        return run, json.loads(archive.read("metadata.json"))


def _load_saved_model(path):
    """The `ServedModel` of a folder that export/saved_model.py wrote."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(f"{path}: needs TensorFlow: pip install tensorflow") from error
    metadata = _saved_model_metadata(path)
    loaded = tf.saved_model.load(str(path))

    def detect(image):
        answer = loaded.signatures["images"](images=tf.constant(image[None]))
        answer = {name: value.numpy()[0] for name, value in answer.items()}
        masks, frames = _cut_out(answer["masks"])
        fields = (answer[name] for name in ("boxes", "labels", "scores", "box_scores"))
        return Detections(*fields, masks, frames)

    return ServedModel(metadata, detect)


def _saved_model_metadata(path):
    """What a SavedModel folder tells; its masks are drawn already, as 0 and 1."""
    file = path / "metadata.json"
    if not file.is_file():
        raise ValueError(f"{path}: no metadata.json in it: export/saved_model.py did not write it")
    return json.loads(file.read_text(encoding="utf-8")) | {"mask_threshold": 0.5}


def _cut_out(masks):
    """The drawn part of each mask, an array of arrays, and the boxes that these cover.

    Pasting them back gives the same pixels: a full-size mask would do, too, but slowly.
    """
    parts, frames = np.empty(len(masks), object), np.zeros((len(masks), 4), "float32")
    for row, mask in enumerate(masks):
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        y0, y1, x0, x1 = (ys[0], ys[-1] + 1, xs[0], xs[-1] + 1) if len(ys) else (0, 1, 0, 1)
        parts[row], frames[row] = mask[y0:y1, x0:x1], (x0, y0, x1, y1)
    return parts, frames


def _preprocessing(metadata):
    """`Preprocessing` but for normalisation, which the file does itself."""
    resize = metadata["resize"]
    sides = {name: resize[name] for name in ("short_side", "long_side", "keep_ratio")}
    return Preprocessing(**sides, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def _alone(image):
    """`Images` that hold one stored picture."""
    return Images(image[None], np.asarray([image.shape[:2]], "int32"))


def _no_objects(image_id):
    """`GroundTruth` of one picture that has no row."""
    return GroundTruth(
        boxes=np.zeros((1, 0, 4), "float32"),
        labels=np.zeros((1, 0), "int32"),
        masks=np.zeros((1, 0, 1, 1), "uint8"),
        mask_frames=np.zeros((1, 0, 4), "float32"),
        semantic=np.full((1, 1, 1), IGNORED_PIXEL, "uint8"),
        image_ids=np.asarray([image_id], "int32"),
    )
