"""Which objects are compared, and where their tiles show them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pac_keras.detections.paste import encode
from tests.evaluation import side_by_side

HEIGHT, WIDTH = 40, 60


def mask(x0, y0, x1, y1):
    """Run lengths of a rectangle; its edges are in pixels."""
    full = np.zeros((HEIGHT, WIDTH), bool)
    full[y0:y1, x0:x1] = True
    return encode(full)


LARGE = {  # area 100 each, as the four kinds of segmentation that a json may hold
    "polygon": [[5, 5, 15, 5, 15, 15, 5, 15]],
    "text": mask(20, 5, 30, 15),
    "counts": {"size": [HEIGHT, WIDTH], "counts": [35 * 40 + 5, *[10, 30] * 9, 10, 625]},
    "crowd": mask(45, 5, 55, 15),
}


@pytest.fixture
def folder(tmp_path):
    """val.json with the large objects, eight small ones, and a black picture."""
    small = [mask(2 * x, 30, 2 * x + 2, 32) for x in range(8)]
    annotations = [
        {
            "id": number,
            "image_id": 7,
            "category_id": 3,
            "bbox": [0, 0, 2, 2],
            "area": 100 if number <= len(LARGE) else 4,
            "iscrowd": int(number == len(LARGE)),
            "segmentation": shape,
        }
        for number, shape in enumerate([*LARGE.values(), *small], 1)
    ]
    image = {"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}
    content = {
        "images": [image],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "disc"}],
    }
    (tmp_path / "val.json").write_text(json.dumps(content))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "a.png")
    return tmp_path


@pytest.fixture
def models(monkeypatch):
    """Makes models of names: those here answer with these masks, others with none."""
    answers = {
        "A": (mask(5, 5, 15, 15), mask(20, 5, 30, 15), mask(35, 5, 45, 15), mask(45, 5, 55, 15)),
        "B": (mask(5, 5, 15, 14), mask(20, 5, 30, 12), mask(35, 5, 44, 15), mask(45, 5, 55, 15)),
    }

    def predict(model, image):
        return SimpleNamespace(segmentations=answers.get(model, ()))

    monkeypatch.setattr(side_by_side.pac_keras, "predict", predict)
    monkeypatch.setattr(side_by_side.keras.models, "load_model", lambda path, compile: path)
    return answers


def test_large_objects_that_every_model_finds(folder, models):
    source, large = side_by_side.validation(folder)
    assert large == 52  # of 8 areas of 4 and 3 of 100, three quarters up: between both
    found = list(side_by_side.objects(source, "AB", large))
    assert [overlaps for *_, overlaps in found] == [[1.0, 0.9], [1.0, 0.9]]  # B's 0.7 is too low
    assert [masks[1] for _, _, masks, _ in found] == [models["B"][0], models["B"][2]]


def test_the_picture_and_the_means(folder, models, capsys):
    side_by_side.main(folder / "out.png", ["A", "B"], folder)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[1] == "IoU 1.000 0.900"
    assert "the 2 objects of >= 52 pixels" in lines[2]
    far = "F_1px 1.000  F_3px 1.000"  # B's borders are a pixel away
    assert lines[3:] == [f"IoU 1.000  {far}  A", f"IoU 0.900  {far}  B"]
    assert Image.open(folder / "out.png").width > 6 * side_by_side.TILE  # two objects in a row
    with pytest.raises(SystemExit, match="no object of >= 52 pixels that every model finds"):
        side_by_side.main(folder / "out.png", ["A", "blind"], folder)


@pytest.mark.parametrize("corner", [(20, 12), (0, 0), (50, 30)])
def test_a_tile_shows_the_mask_where_it_is(corner):
    x, y = corner
    own = mask(x, y, x + 10, y + 10)
    tile = side_by_side.tile(np.zeros((HEIGHT, WIDTH, 3), "uint8"), own, own)
    rows, columns = np.nonzero(np.asarray(tile)[..., 0] > 60)  # fill and outline; the rim is darker
    pixel = side_by_side.TILE / 18  # 10 and LEAST
    for found, start, length in ((columns, x, WIDTH), (rows, y, HEIGHT)):
        low = min(max(start - 4, 0), length - 18)
        assert abs(found.min() - (start - low) * pixel) <= 1.5
        assert abs(found.max() + 1 - (start + 10 - low) * pixel) <= 1.5


def test_errors_are_those_of_the_folder(folder):
    with pytest.raises(FileNotFoundError, match=r"expected val\.json or instances_val\.json"):
        side_by_side.validation(folder / "val.json")
    (folder / "images" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="no such picture file"):
        side_by_side.validation(folder)
