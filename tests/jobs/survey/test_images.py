"""Every kind of good image gives the values that its pixels mean."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jobs.survey.images import ImageDecoder
from jobs.survey.reader import UnreadableError

RANDOM = np.random.default_rng(1)
RGB = RANDOM.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def saved(image: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def band_first(values: np.ndarray) -> np.ndarray:
    return values.transpose(2, 0, 1).astype(np.float32) / np.float32(255)


def test_colour_is_scaled_to_one() -> None:
    pixels = ImageDecoder()(saved(Image.fromarray(RGB)))
    assert np.array_equal(pixels, band_first(RGB))
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("bands", [None, 1])
def test_grey_is_one_band(bands: int | None) -> None:
    pixels = ImageDecoder(bands)(saved(Image.fromarray(GREY)))
    assert np.array_equal(pixels, GREY[np.newaxis] / np.float32(255))


def test_grey_is_repeated_where_three_bands_are_expected() -> None:
    pixels = ImageDecoder(3)(saved(Image.fromarray(GREY)))
    assert np.array_equal(pixels, np.stack([GREY] * 3) / np.float32(255))


def test_sixteen_bits_keep_their_steps() -> None:
    values = np.array([[0, 1, 256, 65535]], dtype=np.uint16)
    pixels = ImageDecoder()(saved(Image.fromarray(values)))
    assert np.array_equal(pixels[0], values / np.float32(65535))


def test_grey_of_few_bits_is_scaled_to_one() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0)
    data = zlib.compress(b"\0\x1b")  # four pixels of two bits: 0, 1, 2, 3
    content = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    assert np.allclose(ImageDecoder()(content), [[[0, 1 / 3, 2 / 3, 1]]], atol=1e-7)
    bits = Image.fromarray(GREY > 99)
    assert np.array_equal(ImageDecoder()(saved(bits))[0], (GREY > 99).astype(np.float32))


def test_transparency_is_dropped() -> None:
    alpha = RANDOM.integers(0, 256, (6, 9, 1), dtype=np.uint8)
    rgba = Image.fromarray(np.concatenate([RGB, alpha], axis=2))
    assert np.array_equal(ImageDecoder()(saved(rgba)), band_first(RGB))
    la = Image.fromarray(np.concatenate([GREY[..., np.newaxis], alpha], axis=2), "LA")
    assert np.array_equal(ImageDecoder()(saved(la))[0], GREY / np.float32(255))


@pytest.mark.parametrize("transparency", [None, 0, b"\0\x80\xff"])
def test_a_palette_becomes_its_colours(transparency: object) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    more = {} if transparency is None else {"transparency": transparency}
    expected = np.array([[[10, 20, 30], [40, 50, 60], [70, 80, 90]]])
    assert np.array_equal(ImageDecoder()(saved(image, **more)), band_first(expected))


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    pixels = ImageDecoder()(saved(image, "JPEG", quality=100))
    assert np.allclose(pixels.mean(axis=(1, 2)), [1, 0, 0], atol=0.02)


def test_a_rotation_mark_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: show it turned right
    pixels = ImageDecoder()(saved(Image.fromarray(RGB), exif=exif))
    assert np.array_equal(pixels, band_first(np.rot90(RGB, -1)))


def test_content_decides_and_not_the_name(image_survey) -> None:
    content = image_survey.file(1).read_bytes()
    assert np.array_equal(ImageDecoder()(content), image_survey.pixels[1])  # JPEG
    with pytest.raises(UnreadableError, match="wrong_format"):
        ImageDecoder()(saved(Image.fromarray(RGB), "TIFF"))
