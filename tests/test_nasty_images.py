"""Awkward and broken picture files: the right picture, or an error that names the file."""

import csv
import json
import shutil
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pac_keras import MaskRCNN, predict
from pac_keras.data import CocoSource, Preprocessing, coco
from pac_keras.data.bad_images import BadImageError
from pac_keras.data.check import check_source
from pac_keras.predict import upright_image

DATA = Path(__file__).parent / "data"
PHOTO = DATA / "coco_eight" / "images" / "000000000071.jpg"
MANIFEST = DATA / "nasty_images" / "MANIFEST.csv"
MOST_MEMORY = 2 * 2**30  # bytes above what the process had

with open(MANIFEST, encoding="utf-8") as rows:
    GIVEN = {row["file"]: row["upright"] for row in csv.DictReader(rows)}
MADE = {
    "half.jpg": "unreadable",
    "1k.jpg": "unreadable",
    "bitrot.jpg": "unreadable",
    "jpeg_named.png": "320x240",
    "png_named.jpg": "320x240",
    "progressive.jpg": "320x240",
    "cmyk.jpg": "320x240",
    "rgba.png": "320x240",
    "la.png": "320x240",
    "palette.png": "320x240",
    "onebit.png": "320x240",
    "gray16.png": "320x240",
    "animated.gif": "320x240",
    "animated.webp": "320x240",
    "1x1.png": "1x1",
    "3x700.jpg": "3x700",
    "2000x2.png": "2000x2",
    "huge.png": "unreadable",
    "huge_1bit.png": "unreadable",
    "lying_header.png": "unreadable",
    "zero_size.png": "unreadable",
    "empty.jpg": "unreadable",
    "text.jpg": "unreadable",
    "html.png": "unreadable",
    "random.jpg": "unreadable",
    "directory.jpg": "unreadable",
    "name with spaces & ümläut 漢.jpg": "320x240",
}
EXPECTED = GIVEN | MADE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All files of EXPECTED."""
    folder = tmp_path_factory.mktemp("nasty")
    for name in GIVEN:
        shutil.copy(MANIFEST.parent / name, folder / name)
    photo = Image.open(PHOTO).convert("RGB").resize((320, 240))
    _save_kinds(photo, folder)
    _save_damaged((folder / "progressive.jpg").read_bytes(), folder)
    _save_lies(folder)
    (folder / "directory.jpg").mkdir()
    assert sorted(path.name for path in folder.iterdir()) == sorted(EXPECTED)
    return folder


def _save_kinds(photo, folder):
    """One photograph in many kinds of file."""
    photo.save(folder / "jpeg_named.png", "JPEG")
    photo.save(folder / "png_named.jpg", "PNG")
    photo.save(folder / "progressive.jpg", progressive=True)
    photo.save(folder / "name with spaces & ümläut 漢.jpg")
    modes = {"cmyk.jpg": "CMYK", "rgba.png": "RGBA", "la.png": "LA", "palette.png": "P"}
    for name, mode in {**modes, "onebit.png": "1"}.items():
        photo.convert(mode).save(folder / name)
    grey = np.asarray(photo.convert("L")).astype("uint16") * 257
    Image.fromarray(grey).save(folder / "gray16.png")
    frames = [photo, photo.rotate(90), photo.rotate(180)]
    for name in ("animated.gif", "animated.webp"):
        photo.save(folder / name, save_all=True, append_images=frames[1:])
    for name in ("1x1.png", "3x700.jpg", "2000x2.png"):
        photo.resize(tuple(map(int, EXPECTED[name].split("x")))).save(folder / name)


def _save_damaged(content, folder):
    """A JPEG cut off, overwritten, and files that hold something else."""
    (folder / "half.jpg").write_bytes(content[: len(content) // 2])
    (folder / "1k.jpg").write_bytes(content[:200])
    rotten = bytearray(content)
    rotten[:300] = np.random.default_rng(0).bytes(300)
    (folder / "bitrot.jpg").write_bytes(rotten)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("this is no picture")
    (folder / "html.png").write_text("<html><body>404 Not Found</body></html>")
    (folder / "random.jpg").write_bytes(np.random.default_rng(1).bytes(4096))


def _save_lies(folder):
    """PNG files of a few bytes that declare pictures of up to 3,600 megapixels."""
    sizes = {"huge": (12_000, 12_000, 8, 2), "huge_1bit": (30_000, 30_000, 1, 0)}
    sizes |= {"lying_header": (60_000, 60_000, 8, 2), "zero_size": (0, 0, 8, 2)}
    for name, (width, height, bits, colour) in sizes.items():
        header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
        parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
        content = b"\x89PNG\r\n\x1a\n"
        for kind, data in parts:
            checksum = zlib.crc32(kind + data)
            content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
        (folder / f"{name}.png").write_bytes(content)


@pytest.fixture(scope="module")
def model():
    model = MaskRCNN(
        3,
        backbone="resnet18",
        base_channels=8,
        frozen_stages=0,
        norm="batch",
        channels=8,
        fc_channels=16,
        pre_nms=(50, 50),
        max_proposals=(40, 30),
        max_detections=5,
    )
    model.preprocessing = Preprocessing(short_side=32, long_side=64)
    return model


@pytest.fixture(autouse=True)
def quiet():
    """Pillow's remarks about such files."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


@pytest.mark.parametrize("name", EXPECTED)
def test_predict(folder, model, name):
    if EXPECTED[name] == "unreadable":
        with pytest.raises((ValueError, OSError)) as raised:
            predict(model, [folder / name] if name != "directory.jpg" else folder / name)
        assert name in str(raised.value)
        return
    width, height = map(int, EXPECTED[name].split("x"))
    found = predict(model, folder / name, score_threshold=0.0)
    assert found.size == (height, width) and found.masks.shape[1:] == (height, width)
    assert len(found.labels) == 5 and np.isfinite(found.boxes).all()


def write_json(folder, names, out):
    """A COCO json of files at their stored sizes, each with an object that fills it."""
    images, annotations = [], []
    for number, name in enumerate(names, 1):
        try:
            with Image.open(folder / name) as picture:
                width, height = picture.size
        except (OSError, Image.DecompressionBombError):
            width, height = 100, 100
        width, height = (width, height) if 0 < width * height < 1e7 else (100, 100)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        shape = [0, 0, width, 0, width, height, 0, height]
        annotations.append(
            {"id": number, "image_id": number, "category_id": 1, "segmentation": [shape]}
            | {"bbox": [0, 0, width, height], "area": width * height, "iscrowd": 0}
        )
    content = {"images": images, "annotations": annotations}
    out.write_text(json.dumps(content | {"categories": [{"id": 1, "name": "thing"}]}))
    return out


FILES = [name for name in EXPECTED if name != "directory.jpg"]


@pytest.mark.parametrize("name", FILES)
def test_training_source(folder, tmp_path, name):
    truth = write_json(folder, [name], tmp_path / "truth.json")
    small = Preprocessing(short_side=32, long_side=64)
    options = {"training": True, "batch_size": 1, "preprocessing": small}
    (stored,) = json.loads(truth.read_text())["images"]
    if min(stored["height"], stored["width"]) < 32:
        with pytest.raises(
            ValueError, match=r"truth\.json: no picture to use .*a side < 32 pixels"
        ):
            coco(truth, folder, **options)
        return
    dataset = coco(truth, folder, **options)
    if EXPECTED[name] == "unreadable":
        with pytest.raises(BadImageError, match=name.replace(".", r"\.")):
            next(iter(dataset))
        return
    batch = next(iter(dataset))
    width, height = map(int, EXPECTED[name].split("x"))
    image = dataset.source[0].image
    assert sorted(image.shape[:2]) == sorted((height, width)) and image.dtype == np.uint8
    assert np.isfinite(batch.images.pixels).all() and batch.images.pixels.shape[0] == 1
    assert batch.ground_truth.boxes.shape == (1, 1, 4)


def test_a_folder_is_no_picture_of_a_data_set(folder, tmp_path):
    truth = write_json(folder, ["directory.jpg"], tmp_path / "truth.json")
    with pytest.raises(FileNotFoundError, match=r"directory\.jpg"):
        CocoSource(truth, folder)


def test_check_lists_those_that_cannot_be_read_and_no_others(folder, tmp_path):
    source = CocoSource(write_json(folder, FILES, tmp_path / "truth.json"), folder)
    problems = check_source(source, progress=False).problems
    bad = [name for name in FILES if EXPECTED[name] == "unreadable"]
    assert len(problems) == len(bad) == 19
    for name, problem in zip(bad, problems, strict=True):
        assert name in problem


def test_all_turns_show_the_same_picture(folder):
    """The seven files that are stored turned or mirrored, as they are displayed."""
    turned = [upright_image(folder / f"hopper_orientation_{k}.jpg") for k in range(2, 9)]
    plain = upright_image(folder / "hopper.bmp").astype("int64")
    for image in turned:
        assert np.abs(image - plain).mean() < 6
        assert np.abs(image[:, ::-1] - plain).mean() > 30
    photos = [upright_image(folder / f"landscape_exif{k}.jpg") for k in (3, 6, 8)]
    for image in photos[1:]:
        assert np.abs(image.astype("int64") - photos[0]).mean() < 6


def peak_memory(reset=False):
    """Bytes that this process has held at most, since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_no_file_costs_much_memory(folder, model, tmp_path):
    before = peak_memory(reset=True)
    for name in EXPECTED:
        try:
            predict(model, [folder / name])
        except (ValueError, OSError):
            assert EXPECTED[name] == "unreadable"
    check_source(
        CocoSource(write_json(folder, FILES, tmp_path / "truth.json"), folder), progress=False
    )
    assert peak_memory() - before < MOST_MEMORY
