"""torchvision's Mask R-CNN and ours on one real picture with the same random weights.

    python -m tests.parity.torchvision_side write FILE.npz PICTURE     # where torchvision is
    python -m tests.parity.torchvision_side compare FILE.npz           # where this library is

In an environment of its own: pip install torch===2.13.0 torchvision==0.28.0
"""

import sys

import numpy as np

_TOLERANCE = 1e-4  # of a feature map's largest value


def write(path, picture):
    """Weights, the prepared picture, feature maps and detections of torchvision."""
    import torch
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    pixels = torchvision.io.decode_image(picture, mode="RGB") / 255.0
    with torch.no_grad():
        prepared, _ = model.transform([pixels])
        _calibrate(model, prepared)
        arrays = {f"w/{name}": value.numpy() for name, value in model.state_dict().items()}
        arrays |= {"in/pixels": prepared.tensors.numpy(), "in/size": prepared.image_sizes[0]}
        maps = model.train(False).backbone(prepared.tensors)
        arrays |= {f"fpn/P{i}": x.numpy() for i, x in enumerate(maps.values(), start=2)}
        arrays |= _detections(model, prepared, maps, "rounded")
        generator = model.rpn.anchor_generator
        generator.cell_anchors = [_exact_anchors(sizes[0]) for sizes in generator.sizes]
        arrays |= _detections(model, prepared, maps, "exact")
    np.savez(path, **arrays)


def _calibrate(model, prepared):
    """Statistics of the batch norms from the picture, and predictions that differ from each other.

    Deviations of the outputs: 1 in the network, and in the predictions those given below.
    """
    import torch

    deviations = {"cls_logits": 2.0, "bbox_pred": 0.3, "cls_score": 2.0, "mask_fcn_logits": 2.0}
    for layer in model.backbone.body.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    model.train().backbone.body(prepared.tensors)
    model.train(False)

    def rescale(name):
        def hook(layer, _, output):
            if name not in done:
                done.add(name)
                layer.weight /= output.std() / deviations.get(name.rpartition(".")[2], 1.0)
                return layer.forward(_[0])
            return None

        return hook

    done, kinds = set(), (torch.nn.Conv2d, torch.nn.Linear, torch.nn.ConvTranspose2d)
    hooks = [
        layer.register_forward_hook(rescale(name))
        for name, layer in model.named_modules()
        if isinstance(layer, kinds) and ".body." not in name
    ]
    _detections(model, prepared, model.backbone(prepared.tensors), "unused")
    for hook in hooks:
        hook.remove()


def _detections(model, prepared, maps, name):
    proposals, _ = model.rpn(prepared, maps)
    (found,), _ = model.roi_heads(maps, proposals, prepared.image_sizes)
    fields = {"proposals": proposals[0]} | {k: found[k] for k in ("boxes", "labels", "scores")}
    return {f"{name}/{field}": value.numpy() for field, value in fields.items()}


def _exact_anchors(size):
    import torch

    root = torch.tensor([0.5, 1.0, 2.0]).sqrt()
    width, height = size / root / 2, size * root / 2
    return torch.stack([-width, -height, width, height], dim=1)


def compare(path):
    """Prints how far our feature maps and detections are away; answers whether all is well."""
    from keras import ops

    from pac_keras import Images, MaskRCNN
    from pac_keras.boxes import box_iou
    from pac_keras.weights import load_maskrcnn

    arrays = dict(np.load(path))
    model = MaskRCNN(90, "resnet50", sampling_ratio=2, aligned=False, pre_nms=(2000, 1000))
    load_maskrcnn(model, {n[2:]: x for n, x in arrays.items() if n.startswith("w/")})
    images = Images(arrays["in/pixels"].transpose(0, 2, 3, 1), arrays["in/size"][None].astype("i4"))
    errors = []
    for level, x in model.encode(images).items():
        expected = arrays[f"fpn/P{level}"]
        error = np.abs(ops.convert_to_numpy(x).transpose(0, 3, 1, 2) - expected).max()
        errors.append(error / np.abs(expected).max())
        print(f"P{level}: largest error {errors[-1]:.1e} of the largest value")
    found = model.predict(images, verbose=0)
    counts = {}
    for kind in ("exact", "rounded"):
        boxes, labels, scores = (arrays[f"{kind}/{x}"] for x in ("boxes", "labels", "scores"))
        iou = ops.convert_to_numpy(box_iou(boxes, found.boxes[0]))
        same = labels[:, None] == found.labels[0][None] + 1
        close = np.abs(scores[:, None] - found.scores[0][None]) < 0.01
        counts[kind] = int(((iou > 0.95) & same & close).any(axis=1).sum()), len(boxes)
        print(f"detections with {kind} anchors: {counts[kind][0]} of {counts[kind][1]} are ours")
    return max(errors) < _TOLERANCE and counts["exact"][0] == counts["exact"][1] > 0


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    sys.exit(0 if {"write": write, "compare": compare}[command](*arguments) in (None, True) else 1)
