import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def write_coco(tmp_path):
    """Writes pictures and a COCO json of two of them; returns (json, folder of pictures).

    `change(content)` edits the json's dict before it is written. Picture 7 is 40 x 60 (height x
    width), picture 3 is 60 x 40; each pixel's value tells its place.
    """

    def write(change=lambda content: None):
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        for name, (height, width) in {"seven.png": (40, 60), "three.png": (60, 40)}.items():
            pixels = np.zeros((height, width, 3), "uint8")
            pixels[..., 0], pixels[..., 1] = np.arange(width), np.arange(height)[:, None]
            Image.fromarray(pixels).save(folder / name)
        content = {
            "images": [
                {"id": 7, "file_name": "seven.png", "height": 40, "width": 60, "unknown": 1},
                {"id": 3, "file_name": "three.png", "height": 60, "width": 40},
            ],
            "annotations": [
                _rectangle(11, 7, 90, [10, 8, 20, 16]),
                _rectangle(12, 7, 5, [30, 20, 12, 12]),
                _rectangle(13, 3, 90, [4, 6, 10, 30]),
            ],
            "categories": [{"id": 90, "name": "brush"}, {"id": 5, "name": "plane"}],
        }
        change(content)
        path = tmp_path / "truth.json"
        path.write_text(json.dumps(content))
        return path, folder

    return write


@pytest.fixture
def annotation():
    """annotation(id, image_id, category_id, bbox): a rectangle as COCO writes it."""
    return _rectangle


def _rectangle(key, image_id, category_id, bbox):
    """A rectangle as COCO writes it."""
    left, top, width, height = bbox
    right, bottom = left + width, top + height
    return {
        "id": key,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": width * height,
        "iscrowd": 0,
        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
    }
