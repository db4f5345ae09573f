"""Pictures of predictions and of the ground truth, as one looks at them before and in training."""

import itertools
import pathlib

from pac_keras.predict import predict
from pac_keras.visualize import contact_sheet, draw, restored_picture, truth_instances

_WIDEST = 2400  # pixels of a sheet


def draw_predictions(model, dataset, sheet, count, folder=None):
    """Writes a JPEG, `sheet`: pairs of ground truth (left) and prediction (right).

    Args:
        model: a system.
        dataset: evaluation `Dataset`; its first `count` pictures are drawn.
        sheet: path of the file; its folder is made.
        folder: where each prediction is also written in full size, `<image id>.png`; None = no.
    """
    sheet = pathlib.Path(sheet)
    sheet.parent.mkdir(parents=True, exist_ok=True)
    tiles = []
    for batch, row in itertools.islice(_pictures(dataset), count):
        image_id = int(batch.ground_truth.image_ids[row])
        truth = truth_instances(batch, row, dataset.categories)
        picture = restored_picture(batch, row, dataset.preprocessing)
        tiles.append(draw(picture, truth, scores=False))
        image = dataset.source[list(dataset.source.image_ids).index(image_id)].image
        found = draw(image, predict(model, image))
        tiles.append(found)
        if folder is not None:
            found.save(pathlib.Path(folder) / f"{image_id}.png")
    if tiles:
        _save_sheet(tiles, sheet)


def draw_truth(dataset, sheet, count):
    """Writes a picture, `sheet`: the first `count` pictures that a Dataset gives, with the masks
    and boxes of its ground truth; of training data, the next epoch's, augmented."""
    tiles = []
    for batch, row in itertools.islice(_pictures(dataset), count):
        truth = truth_instances(batch, row, dataset.categories)
        picture = restored_picture(batch, row, dataset.preprocessing)
        tiles.append(draw(picture, truth, scores=False, boxes=True))
    _save_sheet(tiles, sheet)


def _save_sheet(tiles, sheet):
    page = contact_sheet(tiles)
    page.thumbnail((_WIDEST, 10 * _WIDEST))
    page.save(sheet, quality=90)


def _pictures(dataset):
    """(batch, row) of every picture of `dataset`, as long as it is asked for."""
    for batch in dataset:
        for row in range(len(batch.ground_truth.image_ids)):
            yield batch, row
