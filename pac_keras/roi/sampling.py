"""Which object each region answers for, and which regions are trained on."""

from keras import ops

from pac_keras.boxes import box_coverage, box_iou
from pac_keras.structures import CROWD, PADDING, Matches, Rois

_OBJECTS_AT_ONCE = 16
_CROWD_COVERAGE = 0.5  # a region with more than this share inside a crowd is not trained on


def match(boxes, valid, ground_truth, thresholds, low_quality=None, visible=None, ties=True):
    """Matches of every region with the object that it overlaps most.

    A region is positive at an IoU of at least `thresholds[1]`, background below `thresholds[0]`;
    between them, in padding, and where a crowd covers more than half of it, it is ignored.

    Args:
        boxes: float32 `[B, N, 4]`.
        valid: float32 `[B, N]`; 0 rows are ignored.
        ground_truth: GroundTruth.
        thresholds: (below: background, from: positive), IoU.
        low_quality: if given, an object whose best IoU is at least this also gets every region
            that reaches this best IoU; later objects overwrite earlier ones.
        ties: whether such an object gets all regions that reach it, or only the first.
        visible: the boxes' parts inside the picture, if some reach beyond it: what crowds cover.

    Returns:
        Matches whose labels are the object's label where positive, `PADDING` where ignored, and
        `NO_OBJECT`, a large number, on background (`sample_rois` knows the number of classes).

    Source: Faster R-CNN's assignment as in Detectron and its successors.
    """
    boxes = ops.stop_gradient(boxes)
    covered = boxes if visible is None else ops.stop_gradient(visible)
    usable = (valid > 0.0) & (_in_crowd(covered, valid, ground_truth) <= _CROWD_COVERAGE)

    def overlap_most(state, truth, labels, first):
        best, objects, last = state
        iou = ops.where(labels[:, None, :] >= 0, box_iou(boxes, truth), -1.0)
        iou = ops.where(usable[..., None], iou, -1.0)
        here = ops.max(iou, axis=-1)
        row = first + ops.cast(ops.argmax(iou, axis=-1), "int32")
        if low_quality is not None:
            last = ops.maximum(last, _last_rescued(iou, low_quality, ties, first))
        return ops.maximum(best, here), ops.where(here > best, row, objects), last

    nobody = ops.cast(ops.zeros_like(valid), "int32")
    state = (ops.zeros_like(valid) - 2.0, nobody, nobody - 1)
    best, objects, last = _fold_objects(overlap_most, state, ground_truth)
    objects = ops.where(last >= 0, last, objects)
    positive = (best >= thresholds[1]) | (last >= 0)
    objects = ops.where(positive, objects, 0)
    labels = ops.take_along_axis(ops.cast(ground_truth.labels, "int32"), objects, axis=1)
    unmatched = ops.where(usable & (best < thresholds[0]), NO_OBJECT, PADDING)
    labels = ops.where(positive, labels, unmatched)
    return Matches(objects, labels, ops.cast(positive, "float32"))


def _in_crowd(boxes, valid, ground_truth):
    """Largest share of each region that a crowd covers, `[B, N]`."""

    def cover(state, truth, labels, _):
        crowd = ops.cast(labels == CROWD, "float32")[:, None, :]
        return (ops.maximum(state[0], ops.max(box_coverage(boxes, truth) * crowd, axis=-1)),)

    return _fold_objects(cover, (ops.zeros_like(valid),), ground_truth)[0]


def _last_rescued(iou, low_quality, ties, first):
    """The last object whose best region each one is, `[B, N]`, counted from `first`; -1 if none."""
    best_of_object = ops.max(iou, axis=1, keepdims=True)  # [B, 1, G]
    if ties:
        reaches = iou == best_of_object
    else:
        row = ops.arange(ops.shape(iou)[1], dtype="int32")[:, None]
        reaches = row == ops.cast(ops.argmax(iou, axis=1, keepdims=True), "int32")
    rank = first + ops.arange(ops.shape(iou)[2], dtype="int32")
    return ops.max(ops.where(reaches & (best_of_object >= low_quality), rank, -1), axis=-1)


def _fold_objects(step, state, ground_truth):
    """The state after `step(state, boxes, labels, first)` for a few objects at a time.

    A matrix of 1,000 objects and the 268,000 anchors of 800 x 1344 pixels would take 1 GB.
    """
    boxes, labels = ground_truth.boxes, ground_truth.labels
    count = labels.shape[1]
    if count is None or count <= _OBJECTS_AT_ONCE:
        return step(state, boxes, labels, 0)
    missing = -count % _OBJECTS_AT_ONCE
    boxes = ops.pad(boxes, ((0, 0), (0, missing), (0, 0)))
    labels = ops.pad(labels, ((0, 0), (0, missing)), constant_values=PADDING)

    def body(first, *state):
        rows = first + ops.arange(_OBJECTS_AT_ONCE, dtype="int32")
        state = step(state, ops.take(boxes, rows, axis=1), ops.take(labels, rows, axis=1), first)
        # It takes what is at most 1 from the state, without which TensorFlow would begin with the
        # next objects before it is done with these.
        before = ops.cast(ops.min(state[0]), "int32")
        return ops.maximum(first + _OBJECTS_AT_ONCE, before), *state

    start = ops.zeros((), "int32")
    return ops.while_loop(lambda first, *_: first < count, body, (start, *state))[1:]


NO_OBJECT = 2**30


def sample_rows(matches, count, positive_fraction, priority):
    """Rows to train on: up to `count * positive_fraction` positives first, then background.

    Args:
        matches: Matches `[B, N]`.
        count: S, static; fewer valid rows come out where there are not enough.
        positive_fraction: in [0, 1].
        priority: function of a shape -> float32; of each kind the highest are taken.

    Returns:
        rows int32, valid float32, positive float32, each `[B, S]`; rows is 0 on padding.
    """
    total = matches.labels.shape[1]
    limit = int(count * positive_fraction)
    order = priority(ops.shape(matches.labels))
    positive = matches.positive > 0.0
    background = matches.labels == NO_OBJECT
    positive_rows, num_positive = _best(order, positive, limit, total)
    background_rows, num_background = _best(order, background, count, total)
    slot = ops.arange(count, dtype="int32")[None]  # [1, S]
    from_positive = slot < num_positive
    background_slot = slot - num_positive
    is_background = (background_slot >= 0) & (background_slot < num_background)
    rows = ops.where(
        from_positive,
        ops.pad(positive_rows, ((0, 0), (0, count - limit))),
        ops.take_along_axis(background_rows, ops.maximum(background_slot, 0), axis=1),
    )
    valid = from_positive | is_background
    rows = ops.where(valid, rows, 0)
    return rows, ops.cast(valid, "float32"), ops.cast(from_positive, "float32")


def _best(order, mask, count, total):
    """Rows of the `count` highest `order` `[B, N]` within `mask`, and their number `[B, 1]`."""
    order = ops.where(mask, order, float("-inf"))
    if total is None or total < count:
        order = ops.pad(order, ((0, 0), (0, count)), constant_values=float("-inf"))
    _, rows = ops.top_k(order, count)
    available = ops.sum(ops.cast(mask, "int32"), axis=1, keepdims=True)
    return ops.cast(rows, "int32"), ops.minimum(available, count)


def sample_rois(rois, ground_truth, num_classes, threshold, count, priority, low_quality):
    """Regions to train a stage on, and what each answers for: (Rois, Matches), S rows each.

    The objects' own boxes are put before the proposals, each matched to itself, so that every
    object has at least one region. At most a quarter is positive; positives come first.

    Args:
        rois: Rois `[B, R]`.
        ground_truth: GroundTruth `[B, G]`.
        num_classes: K; background rows get this label, rows that are padding `PADDING`.
        threshold: IoU from which a region is positive.
        count: S, static.
        priority: function of a shape -> float32; of each kind the highest are sampled.
        low_quality: whether each object also gets the regions that tie its best IoU, if that
            reaches `threshold`.
    """
    matches = match(
        rois.boxes,
        rois.valid,
        ground_truth,
        thresholds=(threshold, threshold),
        low_quality=threshold if low_quality else None,
    )
    is_object = ops.cast(ground_truth.labels >= 0, "float32")
    own = ops.broadcast_to(
        ops.arange(ops.shape(is_object)[1], dtype="int32")[None], ops.shape(is_object)
    )
    own_labels = ops.where(is_object > 0.0, ops.cast(ground_truth.labels, "int32"), PADDING)
    join = lambda truth, other: ops.concatenate([truth, other], axis=1)  # noqa: E731
    boxes = join(ground_truth.boxes, rois.boxes)
    matches = Matches(
        objects=join(own, matches.objects),
        labels=join(own_labels, matches.labels),
        positive=join(is_object, matches.positive),
    )
    is_truth = join(is_object, ops.zeros_like(rois.valid))
    rows, valid, positive = sample_rows(matches, count, _POSITIVE_FRACTION, priority)
    labels = ops.take_along_axis(matches.labels, rows, axis=1)
    labels = ops.where(labels == NO_OBJECT, num_classes, labels)
    return (
        Rois(
            boxes=ops.stop_gradient(ops.take_along_axis(boxes, rows[..., None], axis=1))
            * valid[..., None],
            valid=valid,
            is_truth=ops.take_along_axis(is_truth, rows, axis=1) * valid,
        ),
        Matches(
            objects=ops.take_along_axis(matches.objects, rows, axis=1),
            labels=ops.where(valid > 0.0, labels, PADDING),
            positive=positive,
        ),
    )


_POSITIVE_FRACTION = 0.25


def positives(rois, matches):
    """The leading rows of a sample, which hold all its positives: (Rois, Matches), a quarter each.

    What the mask branch trains on; rows that are not positive are marked invalid.
    """
    count = int(rois.valid.shape[1] * _POSITIVE_FRACTION)
    rois = Rois(*(field[:, :count] for field in rois))
    matches = Matches(*(field[:, :count] for field in matches))
    return rois._replace(valid=matches.positive), matches
