import numpy as np
import pytest
from PIL import Image

from pac_keras.data import CocoSource, Dataset, Preprocessing, stuff


def save(folder, labels, mode=None):
    path = folder / "seven.png"
    folder.mkdir(exist_ok=True)
    Image.fromarray(labels).convert(mode or "L").save(path)
    return path


def test_map_is_read_as_stored(tmp_path):
    labels = np.asarray([[0, 90, 91], [181, 255, 5]], "uint8")
    np.testing.assert_array_equal(stuff.read_map(save(tmp_path, labels), (2, 3)), labels)


def test_wrong_maps_say_what_is_wrong(tmp_path):
    labels = np.zeros((2, 3), "uint8")
    with pytest.raises(FileNotFoundError, match=r"nine\.png: no such semantic map"):
        stuff.read_map(tmp_path / "nine.png", (2, 3))
    with pytest.raises(
        ValueError, match=r"seven\.png: map has size \(2, 3\), its picture \(3, 2\)"
    ):
        stuff.read_map(save(tmp_path, labels), (3, 2))
    with pytest.raises(ValueError, match=r"seven\.png: value 182, expected 0\.\.181"):
        stuff.read_map(save(tmp_path, labels + 182), (2, 3))
    with pytest.raises(ValueError, match=r"seven\.png: expected 8 bits and one channel.*RGB"):
        stuff.read_map(save(tmp_path, labels, "RGB"), (2, 3))
    (tmp_path / "seven.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"seven\.png: unreadable semantic map"):
        stuff.read_map(tmp_path / "seven.png", (2, 3))


def test_map_goes_through_resize_padding_and_cells(write_coco, tmp_path):
    labels = np.full((40, 60), 100, "uint8")
    labels[:20, 30:] = 7
    save(tmp_path / "maps", labels)
    json, folder = write_coco(
        lambda content: (content["images"].pop(1), content["annotations"].pop())
    )
    source = CocoSource(json, folder, semantic=tmp_path / "maps")
    assert source.num_semantic_classes == 183
    dataset = Dataset(
        source, training=False, batch_size=1, preprocessing=Preprocessing(80, 120)
    )  # twice the size, on 96 x 128
    (batch,) = dataset
    expected = np.full((12, 16), 255)
    expected[:10, :15] = 100
    expected[:5, 8:15] = 7  # from column 60: cell 7 starts at 56, cell 8 at 64
    np.testing.assert_array_equal(batch.ground_truth.semantic[0], expected)
