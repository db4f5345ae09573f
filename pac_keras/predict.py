"""From a picture, as people have it, to its objects in that picture's own pixels."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pac_keras.data.image import canvas, exif_orientation, pad_batch, prepare, read_image
from pac_keras.detections.paste import Instances, instances, picture

__all__ = ["Instances", "picture_files", "predict", "upright_image"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # in a folder

# EXIF orientation -> what brings the stored pixels upright.
_UPRIGHT = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],
    8: lambda image: image.swapaxes(0, 1)[::-1],
}


def predict(model, pictures, *, score_threshold=0.3):
    """The objects in one picture as `Instances`, or a list of that for several pictures.

    Boxes and masks are in the frame of the picture as it is displayed: EXIF orientation is applied.
    Each picture is resized as the model was trained, padded to its own multiple of 32 and predicted
    alone, so that no result depends on the others.

    Args:
        model: one of the systems; its `categories` give the names, its `preprocessing` the resize.
        pictures: a path, the bytes of an encoded picture, a PIL image, or a uint8 array `[H, W, 3]`
            (RGB), `[H, W]` or `[H, W, 4]`; or a folder, or a list of any of these. A folder stands
            for its pictures in order of name (`picture_files`).
        score_threshold: in [0, 1]; objects with a lower score are left out.
    Raises:
        FileNotFoundError, ValueError: naming the file, what was expected and what came.
    """
    if model.preprocessing is None:
        raise ValueError("the model knows no preprocessing: fit it, or set model.preprocessing")
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold must be in [0, 1], got {score_threshold}")
    if isinstance(pictures, list | tuple):
        return [
            _predict_one(model, one, score_threshold) for some in pictures for one in _expand(some)
        ]
    if _is_folder(pictures):
        return [_predict_one(model, one, score_threshold) for one in _expand(pictures)]
    return _predict_one(model, pictures, score_threshold)


def upright_image(picture):
    """uint8 `[H, W, 3]`, RGB: a path, bytes, PIL image or array as it is displayed."""
    if isinstance(picture, str | os.PathLike | bytes):
        image = read_image(picture)
        return np.ascontiguousarray(_UPRIGHT.get(exif_orientation(picture), np.asarray)(image))
    if isinstance(picture, Image.Image):
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I;16"):
            return _three_channels(np.asarray(upright) >> 8)
        return np.array(upright.convert("RGB"))
    if isinstance(picture, np.ndarray):
        return _three_channels(_checked(picture))
    raise ValueError(
        f"expected a path, bytes, a PIL image or an array, got {type(picture).__name__}"
    )


def picture_files(folder):
    """Paths of the pictures in `folder` (not below), in order of name, told by their suffix.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it holds no file with a suffix in `SUFFIXES`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    files = (file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    files = sorted(file for file in files if file.is_file())
    if not files:
        raise ValueError(f"{folder}: no pictures in it (looked for {', '.join(SUFFIXES)})")
    return files


def _predict_one(model, source, score_threshold):
    """`Instances` of one picture."""
    image = upright_image(source)
    size = image.shape[:2]
    resized = prepare(image, model.preprocessing)
    padded = canvas(resized.shape[:2], model.preprocessing.stride)
    detections = model.predict_on_batch(pad_batch([resized], padded))
    return instances(
        picture(detections, 0),
        (resized.shape[0] / size[0], resized.shape[1] / size[1]),
        size,
        categories=model.categories,
        threshold=model.mask_threshold,
        score_threshold=score_threshold,
        file=str(source) if isinstance(source, str | os.PathLike) else "",
    )


def _expand(one):
    """The pictures that one entry stands for."""
    return picture_files(one) if _is_folder(one) else [one]


def _is_folder(one):
    return isinstance(one, str | os.PathLike) and Path(one).is_dir()


def _checked(array):
    """`array`, if it is a picture."""
    shape = array.shape
    good = array.ndim == 2 or (array.ndim == 3 and shape[2] in (1, 3, 4))
    if array.dtype != np.uint8 or not good or 0 in shape:
        raise ValueError(f"expected uint8 [H, W, 3], got {array.dtype} {list(shape)}")
    return array


def _three_channels(array):
    """uint8 `[H, W, 3]` of grey `[H, W]` or `[H, W, 1]`, RGB, or RGBA without its last channel."""
    array = np.atleast_3d(array)[..., :3].astype("uint8")
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array
