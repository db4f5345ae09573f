import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from pac_keras.data import Category, CocoSource, coco, coco_folder
from pac_keras.data.sample import object_counts
from pac_keras.structures import CROWD


def test_pictures_and_labels(write_coco):
    source = CocoSource(*write_coco())
    assert len(source) == 2
    assert source.categories == (Category(5, "plane"), Category(90, "brush"))
    assert source.num_semantic_classes == 3
    assert source.image_ids == [3, 7]
    assert source.sizes == [(60, 40), (40, 60)]
    assert [row.tolist() for row in source.labels] == [[1], [1, 0]]
    assert source.skipped == {}
    sample = source[1]
    assert sample.image.shape == (40, 60, 3)
    assert sample.image[8, 10].tolist() == [10, 8, 0]
    assert sample.boxes.tolist() == [[10, 8, 30, 24], [30, 20, 42, 32]]
    assert sample.labels.tolist() == [1, 0]
    assert sample.segmentations[0].polygons[0].tolist() == [[10, 8], [30, 8], [30, 24], [10, 24]]
    assert (sample.image_id, sample.size, sample.semantic) == (7, (40, 60), None)


def test_boxes_are_clipped_to_the_picture(write_coco, annotation):
    def change(content):
        content["annotations"] = [annotation(1, 7, 5, [-4, 30, 70, 15.5])]

    assert CocoSource(*write_coco(change))[1].boxes.tolist() == [[0, 30, 60, 40]]


def test_limit_and_ids_choose_pictures(write_coco):
    json, folder = write_coco()
    assert CocoSource(json, folder, limit=1).image_ids == [3]
    assert CocoSource(json, folder, ids=[7]).image_ids == [7]
    with pytest.raises(ValueError, match=r"truth\.json: no picture has the id 8"):
        CocoSource(json, folder, ids=[7, 8])


def bitmap():
    mask = np.zeros((40, 60), "uint8")
    mask[8:24, 10:30] = 1
    mask[10:12, 15:17] = 0
    return mask


def test_run_lengths_compressed_or_not_give_the_same_shape(write_coco):
    columns = bitmap().T.ravel()
    edges = np.flatnonzero(np.diff(columns, prepend=0)).tolist()
    counts = np.diff([0, *edges, columns.size]).tolist()
    compressed = mask_utils.encode(np.asfortranarray(bitmap()))["counts"].decode()

    def change(content):
        for row, runs in zip(content["annotations"], (counts, compressed), strict=False):
            row["segmentation"] = {"size": [40, 60], "counts": runs}

    source = CocoSource(*write_coco(change))
    for segmentation in source[1].segmentations:
        np.testing.assert_array_equal(mask_utils.decode(segmentation.rle), bitmap())


def test_crowd_is_a_label_of_its_own(write_coco):
    def change(content):
        content["annotations"][1]["iscrowd"] = 1

    source = CocoSource(*write_coco(change))
    assert source[1].labels.tolist() == [1, CROWD]
    assert object_counts(source).tolist() == [[1, 0], [1, 1]]
    assert [row["iscrowd"] for row in source.coco_json()["annotations"]] == [0, 0, 1]


def test_picture_without_annotations(write_coco):
    source = CocoSource(*write_coco(lambda content: content.update(annotations=[])))
    assert source[0].boxes.shape == (0, 4)
    assert object_counts(source).tolist() == [[0, 0], [0, 0]]
    assert source.coco_json()["annotations"] == []


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("area", 0, "area <= 0"),
        ("bbox", [10, 8, 0.5, 9], "box narrower or lower than 1 pixel"),
        ("bbox", [61, 8, 10, 9], "box outside the picture"),
        ("segmentation", [], "no segmentation"),
        ("segmentation", None, "no segmentation"),
        ("segmentation", [[1, 2, 3, 4]], "no polygon left"),
    ],
)
def test_what_cannot_be_trained_on_is_counted(write_coco, field, value, reason):
    source = CocoSource(
        *write_coco(lambda content: content["annotations"][0].update({field: value}))
    )
    assert source.skipped[reason] == 1
    assert source[1].labels.tolist() == [0]
    assert source.labels[1].tolist() == [0]
    in_truth = [row["id"] for row in source.coco_json()["annotations"]]
    assert in_truth == ([13, 12] if field == "segmentation" else [13, 11, 12])


def test_short_polygons_are_dropped_from_a_shape(write_coco):
    def change(content):
        content["annotations"][0]["segmentation"].append([1, 2, 3, 4])

    source = CocoSource(*write_coco(change))
    assert source.skipped == {"polygon with < 6 numbers": 1}
    assert len(source[1].segmentations[0].polygons) == 1


def test_coco_json_is_what_the_evaluator_reads(write_coco, tmp_path):
    def change(content):
        for number, row in enumerate(content["annotations"]):
            row["id"] = number
            del row["iscrowd"], row["area"]

    truth = COCO()
    truth.dataset = CocoSource(*write_coco(change)).coco_json()
    truth.createIndex()
    assert truth.getCatIds() == [5, 90]
    rows = truth.loadAnns(truth.getAnnIds(imgIds=[7]))
    assert [row["id"] for row in rows] == [2, 3]  # 0 would mean "no match"
    assert [row["area"] for row in rows] == [20 * 16, 12 * 12]
    assert truth.annToMask(rows[0]).sum() == 20 * 16


def test_missing_and_broken_files(write_coco, tmp_path):
    json, folder = write_coco()
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such json"):
        CocoSource(tmp_path / "none.json", folder)
    (folder / "three.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"three\.png: not a readable picture"):
        CocoSource(json, folder)[0]
    (folder / "three.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"picture 3: no such picture file: .*three\.png"):
        CocoSource(json, folder)
    json.write_text("{")
    with pytest.raises(ValueError, match=r"truth\.json: not valid json"):
        CocoSource(json, folder)
    json.write_text("[]")
    with pytest.raises(ValueError, match=r"truth\.json: expected a COCO dict, got a list"):
        CocoSource(json, folder)


def test_picture_of_another_size(write_coco):
    source = CocoSource(*write_coco(lambda c: c["images"][0].update(height=41)))
    with pytest.raises(
        ValueError, match="height 41, width 60 for picture 7, the file has height 40"
    ):
        source[1]


def test_exif_orientation_is_named_where_it_contradicts(write_coco):
    def save(path, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", (60, 40)).save(path, exif=exif)

    json, folder = write_coco(lambda c: c["images"][0].update(height=60, width=40))
    save(folder / "seven.png", 6)
    with pytest.raises(ValueError, match=r"seven\.png: .*EXIF orientation is 6 and is not applied"):
        CocoSource(json, folder)[1]
    json, folder = write_coco()
    save(folder / "seven.png", 3)
    assert CocoSource(json, folder)[1].image.shape == (40, 60, 3)


def test_coco_and_coco_folder_make_datasets(write_coco, tmp_path):
    json, folder = write_coco()
    dataset = coco(json, folder, training=False, batch_size=2, limit=1)
    assert (len(dataset), dataset.num_classes, dataset.training) == (1, 2, False)
    dataset = coco_folder(tmp_path, "truth", training=True, batch_size=1)
    assert dataset.source.image_ids == [3, 7]
    assert (dataset.max_objects, dataset.cut_objects) == (2, 0)
    dataset = coco_folder(tmp_path, "truth", training=True, batch_size=1, max_objects=1)
    assert (dataset.max_objects, dataset.cut_objects) == (1, 1)
    options = {"frame": (20, 30), "repeat_threshold": 1.0}  # plane is in one picture of two
    dataset = coco_folder(tmp_path, "truth", training=True, batch_size=1, **options)
    assert next(iter(dataset)).ground_truth.masks.shape == (1, 2, 20, 30)
    assert len(dataset) == 3  # factor sqrt(1 / (1 / 2)) and 1, each in a group of its own
    with pytest.raises(FileNotFoundError, match=r"expected test\.json or instances_test\.json"):
        coco_folder(tmp_path, "test", training=True, batch_size=1)


def test_the_json_is_left_as_it_is(write_coco):
    json, folder = write_coco()
    before = json.read_bytes(), sorted(path.name for path in folder.iterdir())
    source = CocoSource(json, folder)
    source.coco_json()["annotations"][0]["id"] = 99
    assert source.coco_json()["annotations"][0]["id"] == 13
    assert before == (json.read_bytes(), sorted(path.name for path in folder.iterdir()))
