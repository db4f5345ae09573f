"""What an exported file tells an application, and how a picture is put on a canvas."""

from pac_keras.data.image import normalize, pad_batch, resize_image
from pac_keras.served import fitted_size


def metadata(model, size, precision):
    """A dict for JSON: all that is needed to use the file besides the file.

    Args:
        model: a system with preprocessing.
        size: (height, width) of the canvas; None where any picture is an input.
        precision: what its weights are stored as, a word.
    """
    known = model.categories or [(k, f"class {k}") for k in range(model.num_classes)]
    preprocessing = model.preprocessing
    canvas = {} if size is None else {"height": int(size[0]), "width": int(size[1])}
    return {
        "format": 1,
        "system": type(model).__name__,
        "precision": precision,
        "input": {**canvas, "channels": "RGB, uint8"},
        "resize": {
            "short_side": preprocessing.short_side,
            "long_side": preprocessing.long_side,
            "keep_ratio": preprocessing.keep_ratio,
            "interpolation": "bilinear, half-pixel centres, no antialias, rounded half up",
        },
        "normalisation": "inside",
        "mask_threshold": float(model.mask_threshold),
        "max_detections": int(model.max_detections),
        "categories": [
            {"label": label, "id": int(number), "name": name}
            for label, (number, name) in enumerate(known)
        ],
    }


def fitted_images(image, canvas, preprocessing):
    """`Images` (numpy) of one uint8 picture `[H, W, 3]` on a canvas (height, width)."""
    size = fitted_size(*image.shape[:2], canvas, preprocessing)
    return pad_batch([normalize(resize_image(image, size), preprocessing)], canvas)
