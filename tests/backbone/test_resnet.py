from pathlib import Path

import numpy as np
import pytest
from builders import count_weights, numpy, weight_gradients
from keras import ops

from pac_keras.backbone.resnet import ARCHITECTURES, Architecture, ResNet
from pac_keras.layers import BatchNorm
from pac_keras.weights.names import backbone

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "backbone_reference.npz")
PIXELS = np.random.default_rng(0).normal(size=(2, 64, 96, 3)).astype("float32")

# weights without batch norm's statistics, and how many of them the stem and stage 1 hold
COUNTS = {
    "resnet18": (11_176_512, 157_504),
    "resnet50": (23_508_032, 225_344),
    "resnet101": (42_500_160, 225_344),
    "resnext101_32x4d": (42_128_704, 215_360),
    "resnext101_64x4d": (81_406_272, 402_752),
}


def compare(network, name, levels):
    network(REFERENCE["image"])
    for key, tensor in backbone(network, "").items():
        tensor.variable.assign(tensor.ours(REFERENCE[f"{name}/w/{key}"]))
    maps = network(REFERENCE["image"])
    assert sorted(maps) == levels
    for level in levels:
        expected = REFERENCE[f"{name}/C{level}"]
        error = np.abs(numpy(maps[level]) - expected).max() / np.abs(expected).max()
        assert error < 1e-4, (level, error)


def test_narrow_resnet50_agrees_with_the_reference():
    compare(ResNet("resnet50", base_channels=8), "resnet50", [2, 3, 4, 5])


def test_grouped_stages_agree_with_the_reference(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "two_stages", Architecture((3, 4), groups=4, group_width=4))
    compare(ResNet("two_stages", base_channels=16), "resnext50", [2, 3])


@pytest.mark.parametrize(
    "names",
    [("resnet18",), ("resnet50", "resnet101"), ("resnext101_32x4d",), ("resnext101_64x4d",)],
)
def test_numbers_of_weights(names, monkeypatch):
    """Two blocks per stage are built; the further ones of a stage are like its second."""
    short = {ARCHITECTURES[name]._replace(blocks=(2, 2, 2, 2)) for name in names}
    assert len(short) == 1  # they differ in depth alone
    monkeypatch.setitem(ARCHITECTURES, "short", short.pop())
    network = ResNet("short", frozen_stages=1)
    network(np.zeros((1, 32, 32, 3), "float32"))
    assert network.block_levels == [2, 2, 3, 3, 4, 4, 5, 5]
    for name in names:
        stages = [
            count_weights(first) + (depth - 1) * count_weights(second)
            for depth, first, second in zip(
                ARCHITECTURES[name].blocks, *[iter(network.blocks)] * 2, strict=True
            )
        ]
        total, frozen = COUNTS[name]
        assert count_weights(network.stem) + sum(stages) == total
        assert count_weights(network.stem) + stages[0] == frozen


def test_strides_channels_and_depth():
    network = ResNet("resnet18", base_channels=8)
    shapes = {level: x.shape for level, x in network(PIXELS).items()}
    assert shapes == {
        level: (2, 64 // 2**level, 96 // 2**level, 8 * 2 ** (level - 2)) for level in (2, 3, 4, 5)
    }
    assert ResNet("resnet101").block_levels == [2] * 3 + [3] * 4 + [4] * 23 + [5] * 3


@pytest.mark.parametrize("frozen_stages", [0, 2, 4])
def test_frozen_stages_have_no_trainable_weights(frozen_stages):
    network = ResNet("resnet18", base_channels=4, frozen_stages=frozen_stages)
    network(PIXELS)
    assert bool(network.stem.trainable_variables) == (frozen_stages == 0)
    levels = {
        level
        for block, level in zip(network.blocks, network.block_levels, strict=True)
        if block.trainable_variables
    }
    assert levels == {level for level in (2, 3, 4, 5) if level > frozen_stages + 1}


def norms(network):
    return [x for x in network._flatten_layers() if isinstance(x, BatchNorm)]


def test_frozen_norm_keeps_all_statistics_in_training():
    network = ResNet("resnet18", base_channels=4, frozen_stages=1, norm="frozen")
    reference = numpy(network(PIXELS)[5])
    trained = numpy(network(PIXELS, training=True)[5])
    np.testing.assert_array_equal(trained, reference)
    for norm in norms(network):
        assert not numpy(norm.moving_mean).any()


def test_norm_of_batches_learns_statistics_in_training_alone():
    network = ResNet("resnet18", base_channels=4, frozen_stages=0, norm="batch")
    network(PIXELS)
    assert not any(numpy(norm.moving_mean).any() for norm in norms(network))
    network(PIXELS, training=True)
    assert all(numpy(norm.moving_mean).any() for norm in norms(network))


def test_every_trainable_weight_gets_a_gradient():
    network = ResNet("resnet18", base_channels=4, frozen_stages=1, norm="frozen")
    network(PIXELS)
    total = lambda maps: ops.sum(maps[5] * maps[5])  # noqa: E731
    gradients = weight_gradients(network, total, PIXELS, training=True)
    assert len(gradients) == 3 * 15  # two in each of six blocks and three shortcuts
    assert all(np.abs(gradient).max() > 0 for gradient in gradients.values())
    assert not any("stem" in path for path in gradients)


def test_untouched_statistics_are_those_frozen_and_never_loaded():
    network = ResNet("resnet18", base_channels=4, frozen_stages=1, norm="batch")
    network(PIXELS[:, :32, :32])
    assert len(network.untouched_statistics()) == 5  # stem and two blocks
    for norm in norms(network)[:2]:
        norm.moving_mean.assign(np.full(norm.moving_mean.shape, 0.5))
    assert len(network.untouched_statistics()) == 3
    network.stem.trainable = True
    for block in network.blocks:
        block.trainable = True
    assert network.untouched_statistics() == []
    for norm in norms(network):
        norm.frozen = True
    assert len(network.untouched_statistics()) == 20 - 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "resnet34"}, "backbone='resnet34'"),
        ({"norm": "group"}, "norm='group'"),
        ({"frozen_stages": 5}, "frozen_stages=5"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**arguments)
