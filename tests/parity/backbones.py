"""Backbones against a fixture: `<name>/w/<state_dict>`, `<name>/C2..C5`."""

import re
from unittest import mock

import numpy as np
from keras import ops

from pac_keras.backbone.resnet import ARCHITECTURES, Architecture, ResNet
from pac_keras.weights.names import backbone

_NAME = re.compile(r"(resnet50_pytorch|resnet50_caffe|resnext50_g(?P<groups>\d+)x(?P<width>\d+))")


def compare_backbones(fixture):
    """Compares C2..C5 of every network in the fixture, and its weights after the way back."""
    pixels = fixture["in/img"].transpose(0, 2, 3, 1)
    for name in sorted({key.split("/")[0] for key in fixture.arrays if "/w/" in key}):
        kind = _architecture(name)
        width = len(fixture[f"{name}/w/conv1.weight"])
        with mock.patch.dict(ARCHITECTURES, {name: kind}):
            network = ResNet(name, base_channels=width)
        channels = pixels[..., ::-1] if network.stride_first else pixels  # the fixture's are BGR
        network(channels)
        for key, tensor in backbone(network, "").items():
            tensor.variable.assign(tensor.ours(fixture[f"{name}/w/{key}"]))
            fixture.compare(f"{name}/w/{key}", tensor.theirs(), "exact")
        for level, x in network(channels).items():
            ours = ops.convert_to_numpy(x).transpose(0, 3, 1, 2)
            fixture.compare(f"{name}/C{level}", ours, "features")
        for key in fixture.under(f"{name}/w/"):
            if key.endswith("num_batches_tracked"):
                fixture.compare(key, np.zeros((), "int64"), "exact")


def _architecture(name):
    found = _NAME.fullmatch(name)
    if not found:
        raise ValueError(f"{name}: expected a network that matches {_NAME.pattern}")
    if found["groups"]:
        return Architecture(
            (3, 4, 6, 3), groups=int(found["groups"]), group_width=int(found["width"])
        )
    return Architecture((3, 4, 6, 3), stride_first=name.endswith("caffe"))
