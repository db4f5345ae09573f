"""Targets from frames as fine as the configs', on eight genuine pictures."""

import pathlib

import numpy as np
import pytest

from pac_keras.data import CocoSource
from tests.data_pipeline import frame_cost

EIGHT = pathlib.Path(__file__).parents[1] / "data" / "coco_eight"


@pytest.fixture(scope="module")
def scenes():
    return list(frame_cost.scenes(CocoSource(EIGHT / "instances.json", EIGHT / "images")))


def border_iou(scenes, frame, grid):
    """Mean IoU next to the borders, of all objects with the shapes drawn on the target's grid."""
    found = []
    for scene in scenes:
        first, second = (frame_cost.targets(scene, kind, grid) for kind in (frame, "polygon"))
        found.append(frame_cost.agreement(first, second)[:, 2])
    return np.concatenate(found).mean()


def shifted(collate, cells):
    """`collate` whose frames lie `cells` of their cells to the right."""

    def shift(samples, canvas, preprocessing, layout):
        batch = collate(samples, canvas, preprocessing, layout)
        frames = batch.ground_truth.mask_frames
        step = cells * (frames[..., 2] - frames[..., 0]) / layout.frame[1]
        frames = frames + step[..., None] * np.asarray([1, 0, 1, 0], "float32")
        return batch._replace(ground_truth=batch.ground_truth._replace(mask_frames=frames))

    return shift


BOUNDS = pytest.mark.parametrize(("frame", "grid", "least"), [(112, 28, 0.925), (224, 112, 0.9)])


@BOUNDS
def test_frames_are_fine_enough(scenes, frame, grid, least):
    assert border_iou(scenes, frame, grid) > least


@BOUNDS
def test_half_as_fine_or_half_a_cell_aside_is_noticed(scenes, frame, grid, least, monkeypatch):
    assert border_iou(scenes, frame // 2, grid) < least - 0.01
    monkeypatch.setattr(frame_cost, "collate", shifted(frame_cost.collate, 0.5))
    assert border_iou(scenes, frame, grid) < least - 0.01
