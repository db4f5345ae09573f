"""Non-maximum suppression, and the choice of the final detections."""

from keras import ops

from pac_keras.boxes import box_iou
from pac_keras.kernels import use_tensorflow_kernels

_INVALID = -1.0  # score of rows that take no part


def nms(boxes, scores, threshold, max_outputs):
    """Rows that survive greedy non-maximum suppression, best first.

    A box is suppressed if its IoU with a better survivor exceeds `threshold` (strictly).

    Args:
        boxes: float32 `[B, N, 4]`.
        scores: float32 `[B, N]`; rows with negative scores take no part. Of equal scores the
            lower row wins.
        threshold: IoU in [0, 1].
        max_outputs: M, a static number.

    Returns:
        rows: int32 `[B, M]`, 0 on padding.
        valid: float32 `[B, M]`, 1 or 0.
    """
    boxes, scores = ops.stop_gradient(boxes), ops.stop_gradient(scores)
    if use_tensorflow_kernels():
        return _nms_tensorflow(boxes, scores, threshold, max_outputs)
    return _nms_ops(boxes, scores, threshold, max_outputs)


def _nms_tensorflow(boxes, scores, threshold, max_outputs):
    """`nms` by TensorFlow's CPU and GPU kernel, picture by picture."""
    import tensorflow as tf

    def one_picture(arguments):
        rows, count = tf.raw_ops.NonMaxSuppressionV4(
            boxes=arguments[0],
            scores=arguments[1],
            max_output_size=max_outputs,
            iou_threshold=threshold,
            score_threshold=0.0 - 1e-9,  # the kernel keeps scores above it: 0 is a legal score
            pad_to_max_output_size=True,
        )
        return rows, tf.cast(tf.range(max_outputs) < count, tf.float32)

    signature = (
        tf.TensorSpec([max_outputs], tf.int32),
        tf.TensorSpec([max_outputs], tf.float32),
    )
    return tf.map_fn(one_picture, (boxes, scores), fn_output_signature=signature)


def _nms_ops(boxes, scores, threshold, max_outputs):
    """`nms` with `keras.ops` alone: one pass over the rows in order of their scores."""
    count = boxes.shape[1]
    scores, order = ops.top_k(scores, count)  # top_k prefers lower rows among equals
    boxes = ops.take_along_axis(boxes, order[..., None], axis=1)
    overlaps = ops.cast(box_iou(boxes, boxes) > threshold, "float32")  # [B, N, N]
    position = ops.arange(count)
    kept = ops.cast(scores >= 0.0, "float32")

    def suppress(row, kept):
        better = ops.take(kept, row, axis=1)[:, None]  # [B, 1]
        later = ops.cast(position > row, "float32")
        return kept * (1.0 - better * later * ops.take(overlaps, row, axis=1))

    kept = ops.fori_loop(0, count, suppress, kept)
    rank = ops.cast(count - position, "float32") * kept
    rank, rows = _top_rows(rank, max_outputs)
    valid = ops.cast(rank > 0.0, "float32")
    rows = ops.take_along_axis(order, rows, axis=1)
    return ops.cast(rows, "int32") * ops.cast(valid, "int32"), valid


def _top_rows(values, count):
    """`top_k` that answers `count` columns even where `values` `[B, N]` has fewer: 0 there."""
    missing = count - values.shape[1]
    if missing > 0:
        values = ops.pad(values, ((0, 0), (0, missing)))
        values, rows = ops.top_k(values, count)
        return values, ops.minimum(rows, count - missing - 1)
    return ops.top_k(values, count)


def select(boxes, scores, score_threshold, nms_threshold, max_candidates, max_detections):
    """The best (box, class) pairs after class-wise non-maximum suppression.

    Args:
        boxes: float32 `[B, N, 4]`, shared by all classes, or `[B, N, K, 4]`, not negative.
        scores: float32 `[B, N, K]` in [0, 1]; 0 on invalid rows.
        score_threshold: pairs must score above it.
        nms_threshold: IoU above which the worse of two boxes of one class is dropped.
        max_candidates: only that many best pairs enter the suppression. A worse pair never
            suppresses a better one, so the result is exact as soon as `max_detections` of the
            candidates survive, or if no more pairs pass the threshold.
        max_detections: D.

    Returns:
        rows: int32 `[B, D]`, which of the N boxes.
        labels: int32 `[B, D]`, 0..K-1, 0 on padding.
        scores: float32 `[B, D]`, descending, 0 on padding.
        valid: float32 `[B, D]`.
    """
    num_boxes, num_classes = scores.shape[1:]
    max_candidates = min(max_candidates, num_boxes * num_classes)
    flat = ops.reshape(scores, (-1, num_boxes * num_classes))
    flat = ops.where(flat > score_threshold, flat, _INVALID)
    flat, pairs = ops.top_k(flat, max_candidates)
    pairs = ops.cast(pairs, "int32")
    rows, labels = pairs // num_classes, pairs % num_classes  # [B, C]
    if len(boxes.shape) == 4:
        boxes = ops.reshape(boxes, (-1, num_boxes * num_classes, 4))
        candidates = ops.take_along_axis(boxes, pairs[..., None], axis=1)
    else:
        candidates = ops.take_along_axis(boxes, rows[..., None], axis=1)
    # Classes are moved apart, so that one suppression over all of them is class-wise.
    apart = ops.max(candidates, axis=(1, 2), keepdims=True) + 1.0
    shifted = candidates + ops.cast(labels, "float32")[..., None] * apart
    kept, valid = nms(shifted, flat, nms_threshold, max_detections)
    pick = lambda values: ops.take_along_axis(values, kept, axis=1)  # noqa: E731
    whole = ops.cast(valid, "int32")
    return pick(rows) * whole, pick(labels) * whole, pick(flat) * valid, valid


def select_fast(boxes, scores, score_threshold, nms_threshold, max_candidates, max_detections):
    """The final detections by Fast NMS, in one step: `select`'s answers for boxes `[B, N, 4]`.

    A box is dropped if its IoU with any better one of its class exceeds `nms_threshold`, even where
    that one is dropped itself. Each class brings its best `max_candidates`.

    Source: Bolya et al. 2019 (YOLACT), section 5.
    """
    count = min(max_candidates, scores.shape[1])
    by_class = ops.swapaxes(scores, 1, 2)  # [B, K, N]
    by_class, rows = ops.top_k(by_class, count)  # [B, K, C]
    num_classes = by_class.shape[1]
    flat_rows = ops.reshape(ops.cast(rows, "int32"), (-1, num_classes * count))
    candidates = ops.take_along_axis(boxes, flat_rows[..., None], axis=1)
    candidates = ops.reshape(candidates, (-1, num_classes, count, 4))
    position = ops.arange(count)
    better = position[:, None] < position  # [row, column]: the row comes first
    overlap = ops.max(ops.where(better, box_iou(candidates, candidates), 0.0), axis=-2)
    alive = (overlap <= nms_threshold) & (by_class > score_threshold)
    flat = ops.reshape(ops.where(alive, by_class, _INVALID), (-1, num_classes * count))
    missing = max(max_detections - num_classes * count, 0)
    flat = ops.pad(flat, ((0, 0), (0, missing)), constant_values=_INVALID)
    best, kept = ops.top_k(flat, max_detections)
    valid = ops.cast(best > _INVALID, "float32")
    kept = ops.cast(kept, "int32") * ops.cast(valid, "int32")
    rows = ops.take_along_axis(flat_rows, kept, axis=1) * ops.cast(valid, "int32")
    return rows, kept // count, best * valid, valid
