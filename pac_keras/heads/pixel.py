"""RDSNet's pixel stream: a vector for each pixel, and masks by correlation with objects' vectors.

Source: Wang et al. 2020 (RDSNet), sections 3.2 and 3.4, and its public code.
"""

from keras import layers, ops

from pac_keras.layers import ConvGroupNorm, conv_relu, double_bilinear, normal_init, resize_bilinear
from pac_keras.losses import binary_cross_entropy, hardest
from pac_keras.masks import inside_frames, middle_pixels
from pac_keras.roi.sampling import sample_rows

STRIDE = 4  # pixels of the picture per pixel vector
_LEAST_AREA = 100.0  # square pixels of an object whose mask is trained on


class PixelStream(layers.Layer):
    """`call({3..5: [B, h, w, C]}) -> [B, H/4, W/4, rep_channels]`, linear unless `rectify`.

    P3, P4 and P5 are brought to stride 8 and summed, convolved, and doubled (corners aligned).
    """

    def __init__(self, rep_channels, channels, norm_groups=32, rectify=False, **kwargs):
        super().__init__(**kwargs)
        counts = {3: 1, 4: 1, 5: 2}  # convolutions of a level
        self.lateral = {
            str(level): [ConvGroupNorm(channels, norm_groups) for _ in range(count)]
            for level, count in counts.items()
        }
        self.joined = ConvGroupNorm(channels, norm_groups)
        self.vectors = layers.Conv2D(rep_channels, 1, kernel_initializer=normal_init(0.01))
        self.rectify = rectify

    def call(self, pyramid):
        total = 0.0
        for level, convs in sorted(self.lateral.items()):
            x = pyramid[int(level)]
            for finer, conv in zip((int(level) - 1, int(level) - 2), convs, strict=False):
                x = conv(x)
                if finer >= 3:
                    x = resize_bilinear(x, ops.shape(pyramid[finer])[1:3], align_corners=True)
            total = total + x
        x = double_bilinear(self.joined(total), align_corners=True)
        x = self.vectors(x)
        return ops.relu(x) if self.rectify else x


class Protonet(layers.Layer):
    """YOLACT's: four convolutions of P3, doubled before the last, then vectors as `PixelStream`'s.

    Source: Bolya et al. 2019 (YOLACT), figure 3.
    """

    def __init__(self, rep_channels, channels, rectify=False, **kwargs):
        super().__init__(**kwargs)
        self.convs = [conv_relu(channels) for _ in range(4)]
        self.vectors = layers.Conv2D(rep_channels, 1)
        self.rectify = rectify

    def call(self, pyramid):
        x = pyramid[3]
        for conv in self.convs[:-1]:
            x = conv(x)
        x = self.vectors(self.convs[-1](double_bilinear(x)))
        return ops.relu(x) if self.rectify else x


def correlate(vectors, pixels):
    """Mask logits of objects, float32 `[B, N, h, w]`: products of their vectors with all pixels'.

    Args:
        vectors: float32 `[B, N, 2 C]`: what the background looks like, then the object; or
            `[B, N, C]`: the object alone.
        pixels: float `[B, h, w, C]`.

    The softmax over background and object is the sigmoid of their logits' difference.
    Source: RDSNet, equation 1.
    """
    pixels = ops.cast(pixels, "float32")
    channels = pixels.shape[-1]
    if vectors.shape[-1] == 2 * channels:
        vectors = vectors[..., channels:] - vectors[..., :channels]
    return ops.einsum("bnc,bhwc->bnhw", vectors, pixels)


def masks_in_frames(logits, frames, side):
    """Mask probabilities on a grid over each frame: float32 `[B, D, side, side]` in [0, 1].

    Args:
        logits: float32 `[B, D, h, w]`, of stride `STRIDE`.
        frames: float32 `[B, D, 4]`, pixels.
    """
    rows = _sampling_weights(frames[..., 1::2], ops.shape(logits)[-2], side)
    columns = _sampling_weights(frames[..., 0::2], ops.shape(logits)[-1], side)
    return ops.sigmoid(ops.matmul(rows, ops.matmul(logits, ops.swapaxes(columns, -1, -2))))


def _sampling_weights(frame_sides, length, side):
    """Linear interpolation weights `[B, D, side, length]` of the cells' middles."""
    start, end = frame_sides[..., :1], frame_sides[..., 1:]
    cell = (ops.arange(side, dtype="float32") + 0.5) / side
    place = (start + cell * (end - start)) / STRIDE - 0.5
    grid = ops.cast(ops.arange(length), "float32")
    place = ops.clip(place, 0.0, ops.cast(length, "float32") - 1.0)
    return ops.maximum(1.0 - ops.abs(place[..., None] - grid), 0.0)


def sample_instances(matches, ground_truth, count, priority):
    """Positive anchors whose mask is trained on: (rows, objects, valid), `[B, count]` each.

    Objects of at most 100 square pixels are left out.

    Args:
        matches: Matches `[B, N]` of all anchors.
        count: static; the highest of `priority` (see `sample_rows`) are taken.
    """
    frames = ground_truth.mask_frames
    cell = (frames[..., 2] - frames[..., 0]) * (frames[..., 3] - frames[..., 1])
    share = ops.mean(ops.cast(ground_truth.masks, "float32"), axis=(-2, -1))
    large = ops.cast(cell * share > _LEAST_AREA, "float32")
    positive = matches.positive * ops.take_along_axis(large, matches.objects, axis=1)
    rows, _, valid = sample_rows(matches._replace(positive=positive), count, 1.0, priority)
    return rows, ops.take_along_axis(matches.objects, rows, axis=1), valid


def object_masks(ground_truth, height, width):
    """Each object on the pixel stream's grid, float32 `[B, G, height, width]`, 0 or 1.

    A cell belongs to it if more than two of its four middle pixels do: a bitmap reduced
    bilinearly, taken above one half.
    """
    masks = ops.cast(ground_truth.masks, "float32")
    drawn = middle_pixels(masks, ground_truth.mask_frames, height, width, STRIDE)
    return ops.cast(sum(ops.cast(x, "float32") for x in drawn) > 2.0, "float32")


def mask_loss(logits, targets, crops, valid, ohem):
    """Cross entropy of masks as (sum, count): the mean over each mask's pixels, summed over masks.

    Args:
        logits: float32 `[B, N, h, w]`.
        targets: float32 `[B, N, h, w]`, 0 or 1.
        crops: float32 `[B, N, 4]` in cells; pixels outside have no loss.
        valid: float32 `[B, N]`.
        ohem: of the background, only as many pixels as the object has inside, those with the
            largest loss.

    Source: RDSNet, section 3.4; the mean has one more pixel in its count, as in the public code.
    """
    height, width = ops.shape(logits)[-2:]
    flat = lambda x: ops.reshape(x, (*ops.shape(x)[:2], -1))  # noqa: E731
    inside = flat(inside_frames(crops, height, width))
    targets = flat(targets)
    error = binary_cross_entropy(flat(logits), targets)
    kept = inside
    if ohem:
        most = ops.sum(inside * targets, axis=-1)
        kept = inside * targets + hardest(error, inside * (1.0 - targets), most)
    mean = ops.sum(kept * error, axis=-1) / (ops.sum(kept, axis=-1) + 1.0)
    return ops.sum(valid * mean), ops.sum(valid)
