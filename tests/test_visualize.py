"""Overlays: colours where the masks are, and nothing elsewhere."""

import numpy as np
import pytest
from PIL import Image

from pac_keras import visualize
from pac_keras.data.image import Preprocessing, normalize, pad_batch
from pac_keras.data.sample import Category
from pac_keras.detections.paste import Instances, encode
from pac_keras.structures import CROWD, Batch, GroundTruth


def found(masks, names=None):
    """`Instances` of bool masks `[N, H, W]`."""
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append(
            [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if mask.any() else [0] * 4
        )
    return Instances(
        boxes=np.asarray(boxes, "float32").reshape(-1, 4),
        labels=np.zeros(len(masks), "int32"),
        names=tuple(names or ["cat"] * len(masks)),
        scores=np.linspace(0.9, 0.5, len(masks)).astype("float32"),
        segmentations=tuple(encode(mask) for mask in masks),
        size=masks.shape[1:],
    )


def square(size, x0, y0, x1, y1):
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


GREY = np.full((40, 60, 3), 128, "uint8")


def test_fill_outline_and_rim_by_hand():
    mask = square((40, 60), 10, 10, 30, 30)
    image = visualize.draw(GREY, found(mask[None]), labels=False, alpha=0.5, min_side=0)
    pixels, rgb = np.asarray(image), np.asarray(visualize.color(0))
    np.testing.assert_array_equal(pixels[20, 20], (128 + rgb) // 2)  # fill
    np.testing.assert_array_equal(pixels[10, 20], rgb)  # outline, inside
    assert pixels[9, 20].max() < 30  # rim, outside
    outside = ~square((40, 60), 9, 9, 31, 31)
    assert (pixels[outside] == 128).all()
    assert (GREY == 128).all()  # the caller's picture


def test_masks_at_the_edge_have_no_outline_along_it():
    image = visualize.draw(GREY, found(np.ones((1, 40, 60), bool)), labels=False, min_side=0)
    assert (np.asarray(image) == np.asarray(image)[0, 0]).all()


def test_boxes_narrower_than_a_pixel_are_drawn():
    one = found(square((40, 60), 10, 10, 30, 30)[None])
    one = one._replace(boxes=np.float32([[20.2, 10, 20.4, 30]]))
    plain, boxed = (
        np.asarray(visualize.draw(GREY, one, labels=False, boxes=boxes, min_side=0))
        for boxes in (False, True)
    )
    changed = np.argwhere(np.any(plain != boxed, axis=-1))
    assert len(changed) and np.all(np.abs(changed[:, 1] - 20) <= 3)


def test_small_objects_are_drawn_over_large_ones_whatever_the_order():
    masks = np.stack([square((40, 60), 18, 18, 26, 26), square((40, 60), 2, 2, 50, 38)])
    image = visualize.draw(GREY, found(masks), labels=False, alpha=1.0, min_side=0)
    assert tuple(np.asarray(image)[22, 22]) == visualize.color(0)
    assert tuple(np.asarray(image)[10, 10]) == visualize.color(1)


def test_small_pictures_are_enlarged_by_a_whole_factor():
    mask = square((40, 60), 10, 10, 30, 30)[None]
    assert visualize.draw(GREY, found(mask)).size == (720, 480)
    assert visualize.draw(GREY, found(mask), min_side=0).size == (60, 40)


def test_labels_do_not_overlap_and_stay_inside():
    sizes = np.asarray([[x, y, x + 40, y + 40] for x in (0, 50, 600) for y in (0, 30, 440)], float)
    places = [visualize._label_places(box, 90.0, 20, (640, 480)) for box in sizes]
    for areas in places:
        assert (areas[:, :2] >= 0).all() and (areas[:, 2:] <= [640, 480]).all()
        np.testing.assert_allclose(areas[:, 2:] - areas[:, :2], [[90, 20]] * len(areas))
    corners = np.asarray([[0.0, 0.0, 4.0, 2.0]])
    others = np.asarray([[3.0, 1.0, 9.0, 9.0], [4.0, 0.0, 5.0, 5.0]])
    assert visualize._overlaps(corners, others).tolist() == [[1.0, 0.0]]


def test_labels_and_boxes_change_only_what_they_should():
    masks = (square((480, 640), 200, 200, 300, 300) & np.tri(480, 640, dtype=bool))[None]
    image = np.full((480, 640, 3), 128, "uint8")
    plain = np.asarray(visualize.draw(image, found(masks), labels=False))
    named = np.asarray(visualize.draw(image, found(masks), scores=False))
    scored = np.asarray(visualize.draw(image, found(masks)))
    changed = (plain != named).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert rows[0] > 170 and rows[-1] < 200 and columns[0] == 200  # above the box, left aligned
    assert (scored != plain).any(-1).any(0).sum() > len(columns) + 20  # the score needs room
    boxed = np.asarray(visualize.draw(image, found(masks), labels=False, boxes=True))
    assert (boxed != plain).any() and not (boxed != plain)[:200].any()


def test_nothing_found_leaves_the_picture_alone():
    nothing = found(np.zeros((0, 40, 60), bool))
    np.testing.assert_array_equal(np.asarray(visualize.draw(GREY, nothing, min_side=0)), GREY)
    empty = found(np.zeros((1, 40, 60), bool))
    drawn = visualize.draw(GREY, empty, labels=False, min_side=0)
    np.testing.assert_array_equal(np.asarray(drawn), GREY)


def test_wrong_size_is_an_error():
    with pytest.raises(ValueError, match=r"the picture is \(40, 60\), the instances are for"):
        visualize.draw(GREY, found(np.zeros((1, 60, 40), bool)))


def test_colors_of_the_first_objects_stay_apart():
    colors = np.asarray([visualize.color(index) for index in range(12)], float)
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
    assert distances[~np.eye(12, dtype=bool)].min() > 60


def test_contact_sheet_places_pictures_in_rows():
    pictures = [np.full((10, 20, 3), 10 * (k + 1), "uint8") for k in range(3)]
    sheet = np.asarray(visualize.contact_sheet(pictures, 2, margin=2))
    assert sheet.shape == (2 * 12 + 2, 2 * 22 + 2, 3)
    assert (sheet[5, 10] == 10).all() and (sheet[5, 32] == 20).all() and (sheet[17, 10] == 30).all()
    assert (sheet[17, 32] == 255).all()
    with pytest.raises(ValueError, match="expected pictures"):
        visualize.contact_sheet([])


def test_ground_truth_of_a_batch_comes_back_in_its_picture():
    preprocessing = Preprocessing()
    image = np.random.default_rng(0).integers(0, 256, (20, 28, 3)).astype("uint8")
    boxes = np.asarray([[[4, 2, 12, 10], [0, 0, 20, 20]]], "float32")
    batch = Batch(
        pad_batch([normalize(image, preprocessing)], (32, 32)),
        GroundTruth(
            boxes=boxes,
            labels=np.asarray([[1, CROWD]], "int32"),
            masks=np.ones((1, 2, 8, 8), "uint8"),
            mask_frames=boxes,
            semantic=np.zeros((1, 4, 4), "uint8"),
            image_ids=np.asarray([3], "int32"),
        ),
    )
    np.testing.assert_array_equal(visualize.restored_picture(batch, 0, preprocessing), image)
    truth = visualize.truth_instances(batch, 0, (Category(1, "a"), Category(2, "b")))
    assert truth.names == ("b",) and truth.size == (20, 28)
    np.testing.assert_array_equal(truth.masks[0], square((20, 28), 4, 2, 12, 10))
    overlay = visualize.draw(Image.fromarray(image), truth, scores=False)
    assert overlay.size == (28 * 24, 20 * 24)
