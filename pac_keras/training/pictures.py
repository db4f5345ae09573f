"""Pictures of a model's predictions, as one looks at them during training."""

import pathlib

from PIL import Image, ImageOps

_TILE = 384  # pixels: side of a picture in the sheet
_COLUMNS = 4


def draw_predictions(model, source, sheet, count, folder=None):
    """Writes the predictions for the first `count` pictures of `source` as one JPEG, `sheet`.

    Args:
        model: a system.
        source: see `data.sample.Source`.
        folder: where each picture is also written in its full size, as `<image id>.png`; None = no.
    """
    from pac_keras.predict import predict
    from pac_keras.visualize import draw

    tiles = []
    for index in range(min(count, len(source))):
        sample = source[index]
        picture = draw(sample.image, predict(model, sample.image))
        tiles.append(picture)
        if folder is not None:
            pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
            picture.save(pathlib.Path(folder) / f"{sample.image_id}.png")
    if tiles:
        pathlib.Path(sheet).parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(tiles).save(sheet, quality=90)


def contact_sheet(pictures):
    """PIL pictures side by side in rows, each within a square tile, as one PIL picture."""
    columns = min(_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * _TILE, rows * _TILE), "white")
    for index, picture in enumerate(pictures):
        tile = ImageOps.pad(picture.convert("RGB"), (_TILE - 4, _TILE - 4), color="white")
        sheet.paste(tile, (index % columns * _TILE + 2, index // columns * _TILE + 2))
    return sheet
