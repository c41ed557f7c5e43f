"""Every bad FITS file: its code, one line that names it, and neighbours read as if it was well."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from jobs.survey.reader import Cutout, ReadFailure
from jobs.survey.survey import open_reader, open_survey

ROW = 2
SHAPE = (3, 20, 20)
IMAGE = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
TILES = np.arange(4096, dtype=np.int32).reshape(64, 64)


def encoded(*hdus: Any, **more: Any) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(buffer, **more)
    return buffer.getvalue()


def plain(data: np.ndarray, **more: Any) -> bytes:
    return encoded(fits.PrimaryHDU(data), **more)


def patched(content: bytes, old: bytes, new: bytes) -> bytes:
    assert len(old) == len(new)
    assert content.count(old) == 1
    return content.replace(old, new)


def with_value(value: float, where: object = (1, 2, 3)) -> np.ndarray:
    image = IMAGE.copy()
    image[where] = value
    return image


def card(name: str, value: int) -> bytes:
    return f"{name:<8}= {value:>20}".encode()


def flipped(content: bytes, offset: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ 4]) + content[offset + 1 :]


def compressed_and_damaged() -> bytes:
    content = encoded(fits.PrimaryHDU(), fits.CompImageHDU(TILES))
    # Nothing but rubbish where the compressed tiles are.
    heap = content.index(b"END" + b" " * 77, 2880) // 2880 * 2880 + 2880
    return content[: heap + 512] + b"\xff" * 1500 + content[heap + 2012 :]


def compressed_with_bad_sum() -> bytes:
    content = encoded(fits.PrimaryHDU(), fits.CompImageHDU(TILES), checksum=True)
    return flipped(content, content.index(b"END" + b" " * 77, 2880) // 2880 * 2880 + 2880 + 1200)


GOOD = plain(IMAGE)
BAD: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "empty": (lambda: b"", "empty_file", "is empty"),
    "text": (lambda: b"<html>404 Not Found</html>\n", "wrong_format", "is no FITS file"),
    "cut in its data": (lambda: GOOD[:5000], "truncated_file", "has 5000 bytes where"),
    "cut in its header": (lambda: GOOD[:400], "truncated_file", "within its header"),
    "no END": (
        lambda: patched(GOOD, b"END" + b" " * 77, b"ENDE" + b" " * 76),
        "truncated_file",
        "within its header",
    ),
    "NAXIS 0": (lambda: encoded(fits.PrimaryHDU()), "no_image", "no extension holds an image"),
    "no pixels": (
        lambda: patched(GOOD, card("NAXIS1", 20), card("NAXIS1", 0)),
        "no_image",
        "no extension holds an image",
    ),
    "memory bomb": (
        lambda: patched(GOOD, card("NAXIS1", 20), card("NAXIS1", 2000000)),
        "too_large",
        "declares 120000000 pixels, the limit is 67108864",
    ),
    "more declared than there is": (
        lambda: patched(GOOD, card("NAXIS1", 20), card("NAXIS1", 2000)),
        "truncated_file",
        "where its header needs",
    ),
    "bad BITPIX": (
        lambda: patched(GOOD, card("BITPIX", -32), card("BITPIX", -31)),
        "corrupt_file",
        "its header's BITPIX is -31",
    ),
    "negative NAXIS1": (  # astropy alone never comes back from this
        lambda: patched(GOOD, card("NAXIS1", 20), card("NAXIS1", -20)),
        "corrupt_file",
        "its header's NAXIS1 is -20",
    ),
    "ten million axes": (
        lambda: patched(GOOD, card("NAXIS", 3), card("NAXIS", 10_000_000)),
        "corrupt_file",
        "its header's NAXIS is 10000000",
    ),
    "a billion table columns": (  # astropy alone looks for each
        lambda: patched(
            encoded(fits.PrimaryHDU(), fits.CompImageHDU(TILES)),
            card("TFIELDS", 1),
            card("TFIELDS", 1_000_000_000),
        ),
        "corrupt_file",
        "its header's TFIELDS is 1000000000",
    ),
    "NAXIS1 in words": (
        lambda: patched(GOOD, card("NAXIS1", 20), b"NAXIS1  = 'twenty'            "),
        "corrupt_file",
        "its header's NAXIS1 is no whole number",
    ),
    "an axis less": (
        lambda: patched(GOOD, card("NAXIS3", 3), card("NAXIS4", 3)),
        "corrupt_file",
        "lacks BITPIX or an axis",
    ),
    "one axis": (lambda: plain(IMAGE.ravel()), "wrong_dimensions", "has 1 axes"),
    "four axes": (lambda: plain(np.stack([IMAGE, IMAGE])), "wrong_dimensions", "has 4 axes"),
    "a table": (
        lambda: encoded(fits.PrimaryHDU(), fits.table_to_hdu(Table({"a": [1]}))),
        "no_image",
        "no extension holds an image",
    ),
    "all NaN": (lambda: plain(np.full_like(IMAGE, np.nan)), "no_finite_pixels", "every pixel"),
    "some NaN": (
        lambda: plain(with_value(np.nan, (0, slice(5), 7))),
        "non_finite_pixels",
        "5 of 1200 pixels are NaN or infinite: set survey.nan to a value",
    ),
    "Inf": (lambda: plain(with_value(np.inf)), "non_finite_pixels", "1 of 1200"),
    "beyond float32": (
        lambda: plain(with_value(1.0).astype(np.float64) * np.where(IMAGE > 2, 1e300, 1)),
        "non_finite_pixels",
        "of 1200 pixels",
    ),
    "BLANK": (
        lambda: encoded(fits.PrimaryHDU(np.full(SHAPE, 7, np.int16), fits.Header({"BLANK": 7}))),
        "no_finite_pixels",
        "every pixel",
    ),
    "bad DATASUM": (
        lambda: flipped(plain(IMAGE, checksum=True), 4000),
        "checksum_mismatch",
        "its checksum disagrees",
    ),
    "bad CHECKSUM": (
        lambda: patched(
            plain(IMAGE, checksum=True),
            card("NAXIS2", 20)[:-2] + b"20",
            card("NAXIS2", 20)[:-2] + b"19",
        ),
        "checksum_mismatch",
        "its checksum disagrees",
    ),
    "bad tile checksum": (compressed_with_bad_sum, "checksum_mismatch", "checksum disagrees"),
    "damaged tiles": (compressed_and_damaged, "corrupt_file", "fetch the file again"),
    "gzip cut": (lambda: gzip.compress(GOOD)[:-2000], "truncated_file", "gzip stream ends early"),
    "gzip flipped": (
        lambda: flipped(gzip.compress(GOOD), 3000),
        "corrupt_file",
        "fetch the file again",
    ),
    "too few bands": (lambda: plain(IMAGE[:2]), "wrong_bands", "has 2 bands where 3 are expected"),
    "no band axis": (lambda: plain(IMAGE[0]), "wrong_bands", "has 1 bands where 3"),
    "band last": (
        lambda: plain(np.ascontiguousarray(IMAGE.transpose(1, 2, 0))),
        "wrong_bands",
        "it looks like (y, x, band)",
    ),
    "other shape": (
        lambda: plain(IMAGE[:, :, :19]),
        "wrong_shape",
        "is 20 x 19 px where 20 x 20 px are expected: set preprocess.size",
    ),
    "1x1": (lambda: plain(IMAGE[:, :1, :1]), "wrong_shape", "is 1 x 1 px"),
}


@pytest.mark.parametrize("name", BAD)
def test_only_the_bad_object_fails(fits_survey, name: str) -> None:
    content, code, fact = BAD[name]
    survey = open_survey(fits_survey.spec, bands=3, shape=(20, 20))
    before = survey.read(survey.catalogue)
    fits_survey.file(ROW).write_bytes(content())
    after = survey.read(survey.catalogue)
    for row, (old, new) in enumerate(zip(before, after, strict=True)):
        assert isinstance(old, Cutout)
        assert np.array_equal(old.pixels, fits_survey.pixels[row])
        if row != ROW:
            assert isinstance(new, Cutout)
            assert new.pixels.tobytes() == old.pixels.tobytes()
            assert new.sha256 == old.sha256
    failure = after[ROW]
    assert isinstance(failure, ReadFailure), failure.pixels.shape
    assert failure.code == code, failure.reason
    assert failure.reason.startswith(f"{fits_survey.names[ROW]}: ")
    assert fact in failure.reason
    assert failure.reason.isprintable()
    object_failure = failure.of(ROW, fits_survey.ids[ROW])
    assert (object_failure.index, object_failure.id) == (ROW, fits_survey.ids[ROW])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_can_be_filled(fits_survey, value: float) -> None:
    fits_survey.file(ROW).write_bytes(plain(with_value(value)))
    spec = fits_survey.with_spec(nan=-0.25)
    reader = open_reader(spec)
    cutout = reader.read(open_survey(spec).catalogue.slice(ROW, ROW + 1))[0]
    assert isinstance(cutout, Cutout)
    assert np.array_equal(cutout.pixels, with_value(-0.25))


def test_an_object_of_nothing_but_nan_is_never_filled(fits_survey) -> None:
    fits_survey.file(ROW).write_bytes(plain(np.full_like(IMAGE, np.nan)))
    survey = open_survey(fits_survey.with_spec(nan=0.0))
    failure = survey.read([ROW])[0]
    assert isinstance(failure, ReadFailure)
    assert failure.code == "no_finite_pixels"


@pytest.mark.parametrize(
    ("hdu", "code", "fact"),
    [
        (3, "missing_hdu", "has no extension 3: correct survey.hdu"),
        ("IVAR", "missing_hdu", "has no extension 'IVAR'"),
        ("TABLE", "no_image", "extension 'TABLE' holds no image"),
        (0, "no_image", "extension 0 holds no image"),
    ],
)
def test_an_extension_that_is_not_an_image(
    fits_survey, hdu: int | str, code: str, fact: str
) -> None:
    table = fits.table_to_hdu(Table({"a": [1]}))
    table.name = "TABLE"
    content = encoded(fits.PrimaryHDU(), table, fits.ImageHDU(IMAGE, name="SCI"))
    fits_survey.file(ROW).write_bytes(content)
    failure = open_survey(fits_survey.with_spec(hdu=hdu)).read([ROW])[0]
    assert isinstance(failure, ReadFailure)
    assert failure.code == code
    assert fact in failure.reason
    for good in ("SCI", 2, None):
        cutout = open_survey(fits_survey.with_spec(hdu=good)).read([ROW])[0]
        assert isinstance(cutout, Cutout)
        assert np.array_equal(cutout.pixels, IMAGE)
