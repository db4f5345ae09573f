"""From detections in network pixels to full-size masks and COCO results of the original picture.

numpy, one picture at a time: masks are pasted and encoded one by one, so that memory grows with
one picture's pixels, not with objects x pixels.
"""

from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from pac_keras.structures import PADDING, Detections, GroundTruth


class Instances(NamedTuple):
    """What was found in one picture, best first, in pixels of that picture.

    boxes: float32 `[N, 4]`, xyxy, inside the picture.
    labels: int32 `[N]`, 0..K-1.
    names: N class names.
    scores: float32 `[N]` in [0, 1], the ranking of masks.
    segmentations: N compressed run lengths {"size": [height, width], "counts": str}.
    size: (height, width) of the picture.
    file: where the picture came from, "" where that was no file.
    """

    boxes: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    scores: np.ndarray
    segmentations: tuple[dict[str, Any], ...]
    size: tuple[int, int]
    file: str = ""

    @property
    def masks(self):
        """bool `[N, H, W]`, full size; decoded at each access, so keep it where used often."""
        masks = np.zeros((len(self.segmentations), *self.size), bool)
        for index in range(len(masks)):
            masks[index] = self.mask(index)
        return masks

    def mask(self, index):
        """bool `[H, W]`, the mask of object `index`."""
        return coco_mask.decode(self.segmentations[index]).astype(bool)

    def rle(self):
        """The masks as a list of COCO's compressed run lengths, JSON-able and pycocotools-ready."""
        return [dict(segmentation) for segmentation in self.segmentations]


def instances(
    detections, scale, size, *, categories=None, threshold=0.5, score_threshold=0.0, file=""
):
    """`Instances` of one picture.

    Args:
        detections: `Detections` of one picture: leaves without the batch axis, numpy.
        scale: (y, x) network pixels per pixel of the original picture.
        size: (height, width) of the original picture.
        categories: (id, name) of each label; None gives "class 0", "class 1", ...
        threshold: of mask probability.
        score_threshold: lower scores are left out; padding always is.
        file: is written into the result.
    """
    labels, scores = np.asarray(detections.labels), np.asarray(detections.scores)
    rows = np.flatnonzero((labels >= 0) & (scores >= score_threshold))
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    names = [categories[k][1] if categories else f"class {k}" for k in labels[rows]]
    return Instances(
        boxes=original_boxes(detections.boxes[rows], scale, size),
        labels=labels[rows].astype("int32"),
        names=tuple(names),
        scores=scores[rows].astype("float32"),
        segmentations=tuple(_segmentations(detections, rows, scale, size, threshold)),
        size=(int(size[0]), int(size[1])),
        file=file,
    )


def coco_results(detections, scale, size, *, image_id, category_ids, threshold=0.5):
    """COCO results of one picture: a list for "bbox" with box scores, one for "segm" with scores.

    The segm records carry no "bbox": pycocotools would take the area from it instead of the mask,
    which moves objects between small, medium and large. `category_ids[k]` is label k's id in the
    json; the other arguments are those of `instances`.
    """
    labels = np.asarray(detections.labels)
    rows = np.flatnonzero(labels >= 0)
    boxes = original_boxes(detections.boxes[rows], scale, size).astype("float64")
    boxes[:, 2:] -= boxes[:, :2]
    segmentations = _segmentations(detections, rows, scale, size, threshold)
    box_results, mask_results = [], []
    for row, box, segmentation in zip(rows, boxes, segmentations, strict=True):
        found = {"image_id": int(image_id), "category_id": int(category_ids[labels[row]])}
        box_results.append(
            {**found, "bbox": box.tolist(), "score": float(detections.box_scores[row])}
        )
        mask_results.append(
            {**found, "segmentation": segmentation, "score": float(detections.scores[row])}
        )
    return box_results, mask_results


def original_boxes(boxes, scale, size):
    """float32 `[N, 4]`: network boxes divided by `scale` (y, x), clipped to `size`."""
    (scale_y, scale_x), (height, width) = scale, size
    boxes = np.asarray(boxes, "float32") / np.asarray([scale_x, scale_y] * 2, "float32")
    return np.clip(boxes, 0.0, np.asarray([width, height] * 2, "float32"))


def paste_mask(mask, frame, size, threshold=0.5):
    """bool `[H, W]` = `size`: where `mask`, stretched over `frame`, is >= `threshold`.

    Args:
        mask: float `[h, w]` in [0, 1].
        frame: xyxy in pixels of the result; may reach beyond it.
    Pixel (x, y) reads the mask bilinearly at ((x + 0.5 - x0) / (x1 - x0), ...), with zeros around
    the map, and only up to one pixel outside the frame; a side without length reads the map's
    middle. That is mmdetection's per-mask paste.
    """
    rows = _window(frame[1], frame[3], size[0])
    columns = _window(frame[0], frame[2], size[1])
    full = np.zeros(size, bool)
    full[rows, columns] = sample_mask(mask, frame, rows, columns) >= threshold
    return full


def sample_mask(mask, frame, rows, columns):
    """float32 `[R, C]`: `mask` stretched over `frame`, at the pixels of the two slices."""
    x0, y0, x1, y1 = (float(edge) for edge in frame)
    height, width = mask.shape
    weights_y = _bilinear_weights(y0, y1, rows, height)
    weights_x = _bilinear_weights(x0, x1, columns, width)
    return weights_y @ np.asarray(mask, "float32") @ weights_x.T


def encode(mask):
    """COCO's compressed run lengths of a bool or uint8 `[H, W]` mask, `counts` as str."""
    rle = coco_mask.encode(np.asfortranarray(mask, "uint8"))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def picture(structure, index):
    """Row `index` of a batched structure, as numpy leaves without the batch axis."""
    return type(structure)(*(np.asarray(leaf)[index] for leaf in structure))


def truth_as_detections(ground_truth: GroundTruth):
    """The ground truth as `Detections` with score 1; crowd becomes padding. For overlays, tests."""
    present = np.asarray(ground_truth.labels) >= 0
    scores = present.astype("float32")
    return Detections(
        boxes=np.where(present[..., None], ground_truth.boxes, 0).astype("float32"),
        labels=np.where(present, ground_truth.labels, PADDING).astype("int32"),
        scores=scores,
        box_scores=scores,
        masks=np.asarray(ground_truth.masks, "float32"),
        mask_frames=np.asarray(ground_truth.mask_frames, "float32"),
    )


def _segmentations(detections, rows, scale, size, threshold):
    """Run lengths of the masks of `rows`, in the original picture, one at a time."""
    edges = np.asarray([scale[1], scale[0]] * 2, "float32")
    for row in rows:
        frame = np.asarray(detections.mask_frames[row], "float32") / edges
        yield encode(paste_mask(detections.masks[row], frame, size, threshold))


def _window(low, high, count):
    """Slice of the pixels from one before `low` to one behind `high`, within 0..count."""
    start = min(max(int(np.floor(low)) - 1, 0), count)
    return slice(start, max(min(int(np.ceil(high)) + 1, count), start))


def _bilinear_weights(low, high, pixels, count):
    """float32 `[P, count]`: how much each map cell adds to each pixel along one axis."""
    centers = np.arange(pixels.start, pixels.stop) + 0.5
    length = high - low
    position = (centers - low) / length if length else np.full(centers.shape, 0.5)
    distance = np.abs(position[:, None] * count - 0.5 - np.arange(count))
    return np.maximum(1.0 - distance, 0.0).astype("float32")
