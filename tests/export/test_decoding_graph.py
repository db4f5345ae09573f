"""The served graph reads as the library does; what it reads otherwise, or must not read."""

import keras
import numpy as np
import pytest
from pictures import coarse, encoded
from PIL import Image

from pac_keras.data.image import read_image

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a SavedModel is TensorFlow's format"
)


SIZE = 48, 80


def refused(file):
    """Whether the graph tells that it cannot read a file, and gives a black pixel."""
    from decoding_graph import UNREADABLE, decode_or_tell

    picture, error = decode_or_tell(file)
    assert error.numpy().decode() in ("", UNREADABLE)
    assert error == "" or picture.shape == (1, 1, 3)
    return bool(error != "")


READ = [
    *((kind, mode) for kind in ("JPEG", "PNG", "GIF") for mode in ("RGB", "L")),
    *(("PNG", mode) for mode in ("LA", "RGBA", "P", "1", "I;16")),
    *(("JPEG", "CMYK"), ("BMP", "RGB"), ("BMP", "RGBA"), ("WEBP", "RGB")),
]


@pytest.mark.parametrize(("kind", "mode"), READ, ids=lambda value: value)
def test_the_graph_reads_as_the_library_does(kind, mode):
    from decoding_graph import decode

    lossless = {"lossless": True} if kind == "WEBP" else {}
    file = encoded(coarse(61, 83), kind, mode, **lossless)
    np.testing.assert_array_equal(decode(file), read_image(file))


def test_what_the_graph_would_read_otherwise_is_not_read():
    for mode in ("L", "P"):
        assert refused(encoded(coarse(61, 83), "BMP", mode))
    assert refused(encoded(coarse(61, 83), "TIFF"))


def test_of_an_animation_the_first_picture_is_read():
    from decoding_graph import decode

    later = [Image.fromarray(coarse(40, 50, seed=1))]
    file = encoded(coarse(40, 50), "GIF", save_all=True, append_images=later)
    np.testing.assert_array_equal(decode(file), read_image(file))


def test_pictures_are_as_large_as_the_library_allows(monkeypatch):
    import decoding_graph

    for kind in ("PNG", "JPEG", "BMP"):
        file = encoded(coarse(*SIZE), kind)
        monkeypatch.setattr(decoding_graph, "MAX_PIXELS", 48 * 80)
        assert not refused(file)
        monkeypatch.setattr(decoding_graph, "MAX_PIXELS", 48 * 80 - 1)
        assert refused(file)


def test_the_transparent_pixels_of_a_gif_are_black():
    from decoding_graph import decode

    picture = Image.fromarray(coarse(*SIZE)).convert("P", palette=Image.Palette.ADAPTIVE)
    file = encoded(picture, "GIF", transparency=3)
    transparent = np.asarray(picture) == 3
    got, expected = decode(file).numpy(), read_image(file)
    assert transparent.any() and not got[transparent].any() and expected[transparent].any()
    np.testing.assert_array_equal(got[~transparent], expected[~transparent])


def test_cmyk_is_at_most_a_level_off():
    from decoding_graph import decode

    file = encoded(Image.frombytes("CMYK", (80, 48), coarse(*SIZE, channels=4).tobytes()), "JPEG")
    got, expected = decode(file).numpy().astype(int), read_image(file)
    assert np.abs(got - expected).max() <= 1


def test_webp_with_transparency_or_motion_is_refused():
    opaque, clear = (Image.fromarray(coarse(*SIZE, channels=channels)) for channels in (3, 4))
    assert not refused(encoded(opaque, "WEBP"))
    assert refused(encoded(clear, "WEBP"))
    assert refused(encoded(opaque, "WEBP", save_all=True, append_images=[opaque.rotate(180)]))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_files_that_end_early_are_refused(kind):
    whole = encoded(coarse(*SIZE), kind)
    assert not refused(whole)
    for length in (1, 3, 12, 30, len(whole) // 2):
        assert refused(whole[:length]), length
        with pytest.raises(ValueError, match="readable picture"):
            read_image(whole[:length])
