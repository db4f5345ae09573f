"""What the served graph reads otherwise than the library, and what it must not read."""

import io

import keras
import numpy as np
import pytest
from PIL import Image

from pac_keras.data.image import read_image

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a SavedModel is TensorFlow's format"
)


def coarse(channels=3):
    """uint8 `[48, 80, channels]`, squares of random colours."""
    colours = np.random.default_rng(0).integers(0, 256, (6, 10, channels))
    return np.kron(colours, np.ones((8, 8, 1))).astype("uint8")


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def refused(file):
    from decoding_graph import UNREADABLE, decode_or_tell

    picture, error = decode_or_tell(file)
    assert error.numpy().decode() in ("", UNREADABLE)
    assert error == "" or picture.shape == (1, 1, 3)
    return bool(error != "")


def test_pictures_are_as_large_as_the_library_allows(monkeypatch):
    import decoding_graph

    for kind in ("PNG", "JPEG", "BMP"):
        file = encoded(Image.fromarray(coarse()), kind)
        monkeypatch.setattr(decoding_graph, "MAX_PIXELS", 48 * 80)
        assert not refused(file)
        monkeypatch.setattr(decoding_graph, "MAX_PIXELS", 48 * 80 - 1)
        assert refused(file)


def test_the_transparent_pixels_of_a_gif_are_black():
    from decoding_graph import decode

    picture = Image.fromarray(coarse()).convert("P", palette=Image.Palette.ADAPTIVE)
    file = encoded(picture, "GIF", transparency=3)
    transparent = np.asarray(picture) == 3
    got, expected = decode(file).numpy(), read_image(file)
    assert transparent.any() and not got[transparent].any() and expected[transparent].any()
    np.testing.assert_array_equal(got[~transparent], expected[~transparent])


def test_cmyk_is_at_most_a_level_off():
    from decoding_graph import decode

    file = encoded(Image.frombytes("CMYK", (80, 48), coarse(4).tobytes()), "JPEG")
    got, expected = decode(file).numpy().astype(int), read_image(file)
    assert np.abs(got - expected).max() <= 1


def test_webp_with_transparency_or_motion_is_refused():
    opaque, clear = (Image.fromarray(coarse(channels)) for channels in (3, 4))
    assert not refused(encoded(opaque, "WEBP"))
    assert refused(encoded(clear, "WEBP"))
    assert refused(encoded(opaque, "WEBP", save_all=True, append_images=[opaque.rotate(180)]))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_files_that_end_early_are_refused(kind):
    whole = encoded(Image.fromarray(coarse()), kind)
    assert not refused(whole)
    for length in (1, 3, 12, 30, len(whole) // 2):
        assert refused(whole[:length]), length
        with pytest.raises(ValueError, match="readable picture"):
            read_image(whole[:length])
