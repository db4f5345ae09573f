"""Jsons that are broken, hostile, or odd: an error that names the record, or a stated handling.

Several of them crash pycocotools, or keep it busy for ever, where they reach it.
"""

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from pac_keras.data import CocoSource
from pac_keras.data.check import check_source
from pac_keras.data.frames import object_frames, rasterise
from pac_keras.structures import CROWD

HUGE = 10**400  # python's json reads it; no float holds it
INFINITE, NAN = float("inf"), float("nan")


def annotation_with(**fields):
    return lambda content: content["annotations"][0].update(fields)


def picture_with(**fields):
    return lambda content: content["images"][0].update(fields)


def category_with(**fields):
    return lambda content: content["categories"][0].update(fields)


def shape(segmentation):
    return annotation_with(segmentation=segmentation)


def runs(counts, size=(40, 60)):
    return shape({"size": list(size), "counts": counts})


def renumbered(kind, key, value):
    """Changes the id of the first record of a kind, and of what refers to it."""

    def change(content):
        old, content[kind][0]["id"] = content[kind][0]["id"], value
        for record in content["annotations"]:
            if record[key] == old:
                record[key] = value

    return change


def without(kind, field):
    return lambda content: content[kind][0].pop(field)


def repeated(kind):
    return lambda content: content[kind].append(content[kind][0])


def with_row(kind, row):
    return lambda content: content[kind].append(row)


def with_list(kind, value):
    return lambda content: content.update({kind: value})


POLYGON, RUNS = (
    "annotation 11: polygon must be pairs",
    "annotation 11: run lengths must be integers",
)
FAR = r"annotation 11: polygon has a coordinate that is not within \+-1048576"
GARBAGE = "annotation 11: counts are not compressed run lengths"
BOX, AREA = "annotation 11: bbox must be 4 numbers", "annotation 11: area must be a finite number"
CROWD_FLAG = "annotation 11: iscrowd must be 0 or 1"
UNKNOWN_CLASS = "annotation 11: category_id .* is not among the categories"
UNKNOWN_PICTURE = "annotation 11: image_id .* is not among the images"
UNIQUE = "id must be a unique integer"

REFUSED = {
    "run lengths: negative": (runs([-5, 2405]), RUNS),
    "run lengths: fractions": (runs([5.5, 2394.5]), RUNS),
    "run lengths: text": (runs(["5", 2395]), RUNS),
    "run lengths: nested": (runs([[5], 2395]), RUNS),
    "run lengths: beyond 32 bits": (runs([2**40]), "add up to 1099511627776, expected 2400"),
    "run lengths: none": (runs([]), "add up to 0, expected 2400"),
    "run lengths: too short": (runs([2399]), "add up to 2399, expected 2400"),
    "compressed: a word": (runs("foo"), GARBAGE),
    "compressed: beyond the alphabet": (runs("~~~~~~~~"), GARBAGE),
    "compressed: control characters": (runs("\x00\x01"), GARBAGE),
    "compressed: not ascii": (runs("漢字"), GARBAGE),
    "compressed: empty": (runs(""), GARBAGE),
    "compressed: a number without end": (runs("P" * 40), GARBAGE),
    "compressed: a number too long": (runs("P" * 16 + "7"), GARBAGE),
    "compressed: too short": (runs("5"), "add up to 5, expected 2400"),
    "compressed: negative": (runs("5550O"), "a run length is negative|add up to"),
    "run lengths: of another size": (runs([10**12], (10**6, 10**6)), "have size .*, the picture"),
    "run lengths: of negative size": (runs([2400], (-40, -60)), "have size .*, the picture"),
    "run lengths: size as text": (runs([2400], ("40", "60")), "have size .*, the picture"),
    "run lengths: no size": (shape({"counts": [2400]}), "have size None"),
    "run lengths: no counts": (shape({"size": [40, 60]}), "counts must be a list or a string"),
    "run lengths: empty dict": (annotation_with(segmentation={"x": 1}), "have size None"),
    "polygon: 1e9 pixels": (shape([[0, 0, 1e9, 0, 1e9, 1e9]]), FAR),
    "polygon: 1e30 pixels": (shape([[0, 0, 1e30, 0, 1e30, 1e30]]), FAR),
    "polygon: far to the left": (shape([[0, 0, -1e9, 0, 5, 5]]), FAR),
    "polygon: infinite": (shape([[0, 0, INFINITE, 0, 5, 5]]), FAR),
    "polygon: nan": (shape([[0, 0, NAN, 0, 5, 5]]), FAR),
    "polygon: no float": (shape([[0, 0, HUGE, 0, 5, 5]]), POLYGON),
    "polygon: text": (shape([["0", "0", "5", "0", "5", "5"]]), POLYGON),
    "polygon: null": (shape([[0, 0, None, 0, 5, 5]]), POLYGON),
    "polygon: truth values": (shape([[True] * 6]), POLYGON),
    "polygon: of points": (shape([[[0, 0], [5, 0], [5, 5]]]), POLYGON),
    "polygon: nested too deep": (shape([[[0, 0, 5, 0, 5, 5]]]), POLYGON),
    "polygon: 7 numbers": (shape([[1, 2, 3, 4, 5, 6, 7]]), POLYGON),
    "polygon: flat": (shape([1, 2, 3, 4, 5, 6]), "segmentation must be a list of polygons"),
    "polygon: and run lengths": (
        shape([[0, 0, 5, 0, 5, 5], {"size": [40, 60], "counts": [2400]}]),
        "segmentation must be a list of polygons",
    ),
    "segmentation: text": (shape("x"), "segmentation must be a list of polygons"),
    "segmentation: a number": (shape(5), "segmentation must be a list of polygons"),
    "box: no float": (annotation_with(bbox=[0, 0, HUGE, 5]), BOX),
    "box: 1e300": (annotation_with(bbox=[0, 0, 1e300, 1e300]), BOX),
    "box: infinite": (annotation_with(bbox=[0, 0, INFINITE, 1]), BOX),
    "box: nan": (annotation_with(bbox=[0, 0, NAN, 1]), BOX),
    "box: text": (annotation_with(bbox=["1", 2, 3, 4]), BOX),
    "box: truth values": (annotation_with(bbox=[True] * 4), BOX),
    "box: null": (annotation_with(bbox=None), BOX),
    "box: a dict": (annotation_with(bbox={"x": 1}), BOX),
    "box: 5 numbers": (annotation_with(bbox=[1, 2, 3, 4, 5]), BOX),
    "area: null": (annotation_with(area=None), AREA),
    "area: nan": (annotation_with(area=NAN), AREA),
    "area: no float": (annotation_with(area=HUGE), AREA),
    "area: text": (annotation_with(area="x"), AREA),
    "area: a list": (annotation_with(area=[1]), AREA),
    "crowd: text": (annotation_with(iscrowd="0"), CROWD_FLAG),
    "crowd: 2": (annotation_with(iscrowd=2), CROWD_FLAG),
    "crowd: -1": (annotation_with(iscrowd=-1), CROWD_FLAG),
    "crowd: null": (annotation_with(iscrowd=None), CROWD_FLAG),
    "class: a list": (annotation_with(category_id=[90]), UNKNOWN_CLASS),
    "class: text": (annotation_with(category_id="90"), UNKNOWN_CLASS),
    "class: a fraction": (annotation_with(category_id=90.0), UNKNOWN_CLASS),
    "class: null": (annotation_with(category_id=None), UNKNOWN_CLASS),
    "class: unknown": (annotation_with(category_id=99), UNKNOWN_CLASS),
    "picture of an object: a list": (annotation_with(image_id=[7]), UNKNOWN_PICTURE),
    "picture of an object: text": (annotation_with(image_id="7"), UNKNOWN_PICTURE),
    "picture of an object: null": (annotation_with(image_id=None), UNKNOWN_PICTURE),
    "picture of an object: unknown": (annotation_with(image_id=99), UNKNOWN_PICTURE),
    "object id: null": (annotation_with(id=None), UNIQUE),
    "object id: a fraction": (annotation_with(id=11.0), UNIQUE),
    "object id: a truth value": (annotation_with(id=True), UNIQUE),
    "object id: a list": (annotation_with(id=[11]), UNIQUE),
    "object twice": (repeated("annotations"), f"{UNIQUE}, got 11"),
    "picture twice": (repeated("images"), f"{UNIQUE}, got 7"),
    "class twice": (repeated("categories"), f"{UNIQUE}, got 90"),
    "picture id: huge": (renumbered("images", "image_id", 10**30), "id beyond 32 bits"),
    "picture id: text": (picture_with(id="7"), f"{UNIQUE}, got '7'"),
    "picture id: 32 bits and one": (renumbered("images", "image_id", 2**31), "id beyond 32 bits"),
    "height: 0": (picture_with(height=0), "picture 7: height must be a positive"),
    "height: a truth value": (picture_with(height=True), "picture 7: height must be a positive"),
    "height: a fraction": (picture_with(height=40.0), "picture 7: height must be a positive"),
    "height: text": (picture_with(height="40"), "picture 7: height must be a positive"),
    "height: negative": (picture_with(height=-40), "picture 7: height must be a positive"),
    "height: huge": (picture_with(height=10**9), "picture 7: height x width must be at most"),
    "height: no float": (picture_with(height=HUGE), "picture 7: height x width must be at most"),
    "file: a number": (picture_with(file_name=5), "picture 7: file_name must be a string"),
    "file: empty": (picture_with(file_name=""), "picture 7: no such picture file"),
    "file: the folder": (picture_with(file_name="."), "picture 7: no such picture file"),
    "file: with a zero byte": (picture_with(file_name="a\0b"), "picture 7: no such picture file"),
    "file: a long name": (picture_with(file_name="a" * 5000), "picture 7: no such picture file"),
    "file: in capitals": (picture_with(file_name="SEVEN.png"), "picture 7: no such picture file"),
    "file: no unicode": (picture_with(file_name="\ud800.png"), "picture 7: no such picture file"),
    "class name: a number": (category_with(name=5), "category 90: name must be a text, got 5"),
    "class name: null": (category_with(name=None), "category 90: name must be a text, got None"),
    "class name: empty": (category_with(name=""), "category 90: name must be a text, got ''"),
    "no classes": (with_list("categories", []), UNKNOWN_CLASS),
    "no pictures": (with_list("images", []), UNKNOWN_PICTURE),
    "objects: a dict": (with_list("annotations", {}), "'annotations' is missing or no list"),
    "objects: null": (with_list("annotations", None), "'annotations' is missing or no list"),
    "pictures: missing": (lambda c: c.pop("images"), "key 'images' is missing"),
    "objects: missing": (lambda c: c.pop("annotations"), "'annotations' is missing or no list"),
    "a picture without file_name": (without("images", "file_name"), r"\(id 7\) has no 'file_name'"),
    "an object without bbox": (without("annotations", "bbox"), r"\(id 11\) has no 'bbox'"),
    "a class without name": (without("categories", "name"), r"\(id 90\) has no 'name'"),
    "a row: a list": (with_row("annotations", []), r"annotations\[3\] must be a dict"),
    "a row: null": (with_row("annotations", None), r"annotations\[3\] must be a dict"),
    "a row: text": (with_row("images", "x"), r"images\[2\] must be a dict"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_record_that_is_wrong(write_coco, case):
    change, message = REFUSED[case]
    with pytest.raises((ValueError, FileNotFoundError), match=rf"truth\.json: .*{message}"):
        CocoSource(*write_coco(change))


TEXTS = {
    "empty": b"",
    "null": b"null",
    "a list of results": b'[{"image_id": 1, "category_id": 1, "score": 1}]',
    "text": b'"x"',
    "cut off": b'{"images": [',
    "an error page": b"<html>404</html>",
    "binary": b"\xff\xfe\x00\x01",
    "zeros": b"\0" * 100,
    "json lines": b'{"a": 1}\n{"b": 2}',
    "lists 100,000 deep": b"[" * 100_000,
    "dicts 100,000 deep": b'{"a":' * 100_000,
    "a number of 5,000 digits": b'{"images": ' + b"9" * 5000 + b"}",
    "not a number": b'{"images": NaN}',
}


@pytest.mark.parametrize("case", TEXTS)
def test_files_that_are_no_coco_json(write_coco, case):
    path, folder = write_coco()
    path.write_bytes(TEXTS[case])
    message = r"truth\.json: (not valid json|expected a COCO dict|key 'images' is missing)"
    with pytest.raises(ValueError, match=message):
        CocoSource(path, folder)


# What is read, though odd: (change, labels of pictures 3 and 7, what `skipped` counts).
BOTH = [[1], [1, 0]]
READ = {
    "all crowd": (
        lambda c: [row.update(iscrowd=1) for row in c["annotations"]],
        [[CROWD], [CROWD, CROWD]],
        {},
    ),
    "crowd as a truth value": (annotation_with(iscrowd=True), [[1], [CROWD, 0]], {}),
    "no shapes": (
        lambda c: [row.pop("segmentation") for row in c["annotations"]],
        [[], []],
        {"no segmentation": 3},
    ),
    "negative ids": (renumbered("images", "image_id", -7), BOTH[::-1], {}),
    "class id 0": (renumbered("categories", "category_id", 0), [[0], [0, 1]], {}),
    "class id negative": (renumbered("categories", "category_id", -1), [[0], [0, 1]], {}),
    "class id huge": (renumbered("categories", "category_id", 10**30), BOTH, {}),
    "object id huge": (annotation_with(id=10**30), [[1], [0, 1]], {}),
    "object id 0": (annotation_with(id=0), BOTH, {}),
    "object id negative": (annotation_with(id=-5), BOTH, {}),
    "two classes of one name": (category_with(name="plane"), BOTH, {}),
    "keys that nobody knows": (with_list("licences", None), BOTH, {}),
    "one file of two pictures": (
        picture_with(file_name="three.png", height=60, width=40),
        BOTH,
        {},
    ),
    "box of no area": (
        annotation_with(bbox=[10, 10, 0, 0]),
        [[1], [0]],
        {"box narrower or lower than 1 pixel": 1},
    ),
    "box of negative width": (
        annotation_with(bbox=[10, 10, -5, 5]),
        [[1], [0]],
        {"box narrower or lower than 1 pixel": 1},
    ),
    "box outside": (
        annotation_with(bbox=[100, 100, 5, 5]),
        [[1], [0]],
        {"box outside the picture": 1},
    ),
    "area negative": (annotation_with(area=-1), [[1], [0]], {"area <= 0": 1}),
    "polygon of 4 numbers": (
        shape([[1, 2, 3, 4]]),
        [[1], [0]],
        {"polygon with < 6 numbers": 1, "no polygon left": 1},
    ),
    "polygon of none": (
        shape([[]]),
        [[1], [0]],
        {"polygon with < 6 numbers": 1, "no polygon left": 1},
    ),
    "polygon of a point": (shape([[5] * 6]), BOTH, {}),
    "polygon of a line": (shape([[0, 0, 5, 5, 10, 10]]), BOTH, {}),
    "polygon that crosses itself": (shape([[0, 0, 10, 10, 10, 0, 0, 10]]), BOTH, {}),
    "polygon outside": (shape([[100, 100, 120, 100, 120, 120]]), BOTH, {}),
    "polygon of 20,000 points": (shape([[7.5, 8.25] * 20_000]), BOTH, {}),
    "2,000 polygons": (shape([[1, 1, 5, 1, 5, 5]] * 2000), BOTH, {}),
    "polygon far beyond the picture": (shape([[0, 0, 1e5, 0, 1e5, 1e5]]), BOTH, {}),
    "box beside its shape": (annotation_with(bbox=[40, 30, 5, 5]), BOTH, {}),
    "run lengths of nothing": (runs([2400]), BOTH, {}),
    "run lengths with many zeros": (runs([0] * 1001 + [2400]), BOTH, {}),
    "300 classes": (
        lambda c: c["categories"].extend({"id": 100 + k, "name": f"{k}"} for k in range(300)),
        BOTH,
        {},
    ),
}


@pytest.mark.parametrize("case", READ)
def test_read_as_stated(write_coco, case):
    change, labels, skipped = READ[case]
    source = CocoSource(*write_coco(change))
    assert ([row.tolist() for row in source.labels], dict(source.skipped)) == (labels, skipped)
    for index in range(len(source)):
        sample = source[index]
        frames = object_frames(sample.boxes, sample.segmentations, sample.transform)
        for segmentation, frame in zip(sample.segmentations, frames, strict=True):
            drawn = rasterise(segmentation, sample.transform, frame, (28, 28))
            assert drawn.shape == (28, 28) and drawn.max() <= 1
    report = check_source(source, progress=False)  # the evaluator reads it, too
    assert report.problems == () and report.objects == sum(k >= 0 for row in labels for k in row)


def test_a_byte_order_mark_is_no_part_of_the_json(write_coco):
    path, folder = write_coco()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert CocoSource(path, folder).image_ids == [3, 7]


@pytest.mark.parametrize("seed", range(20))
def test_compressed_run_lengths_of_any_shape_are_accepted(write_coco, seed):
    """Of noise, stripes and large runs: what pycocotools wrote adds up to the picture."""
    random = np.random.default_rng(seed)
    bitmap = np.kron(random.integers(0, 2, (40 // (1 + seed % 4), 60)), np.ones((1 + seed % 4, 1)))
    bitmap = np.resize(bitmap, (40, 60)).astype("uint8")
    encoded = mask_utils.encode(np.asfortranarray(bitmap))
    source = CocoSource(*write_coco(runs(encoded["counts"].decode())))
    np.testing.assert_array_equal(mask_utils.decode(source[1].segmentations[0].rle), bitmap)
