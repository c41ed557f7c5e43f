"""Good FITS files of every kind give the values that their header says."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from jobs.survey.fits import FitsDecoder
from jobs.survey.reader import Cutout
from jobs.survey.survey import open_survey

IMAGE = np.random.default_rng(0).integers(0, 100, (3, 12, 10))


def encoded(*hdus: Any, **more: Any) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(buffer, **more)
    return buffer.getvalue()


def plain(data: np.ndarray, **more: Any) -> bytes:
    return encoded(fits.PrimaryHDU(data), **more)


def scaled() -> bytes:
    hdu = fits.PrimaryHDU(IMAGE.astype(np.float32) * 0.5 + 3)
    hdu.scale("int16", bscale=0.5, bzero=3)
    return encoded(hdu)


GOOD: dict[str, tuple[Callable[[], bytes], np.ndarray]] = {
    **{
        kind: (lambda kind=kind: plain(IMAGE.astype(kind)), IMAGE)
        for kind in ("u1", ">i2", ">i4", ">i8", ">f4", ">f8", "u2", "u4")
    },
    "BSCALE and BZERO": (scaled, IMAGE * 0.5 + 3),
    "checksums": (lambda: plain(IMAGE, checksum=True), IMAGE),
    "unsigned with checksums": (lambda: plain(IMAGE.astype("u2"), checksum=True), IMAGE),
    "one band": (lambda: plain(IMAGE[0]), IMAGE[:1]),
    "Stokes axis": (lambda: plain(IMAGE[np.newaxis]), IMAGE),
    "gzipped": (lambda: gzip.compress(plain(IMAGE)), IMAGE),
    "tile-compressed": (
        lambda: encoded(fits.PrimaryHDU(), fits.CompImageHDU(IMAGE[0].astype("i4")), checksum=True),
        IMAGE[:1],
    ),
    "in an extension": (lambda: encoded(fits.PrimaryHDU(), fits.ImageHDU(IMAGE)), IMAGE),
    "odd cards": (
        lambda: encoded(fits.PrimaryHDU(IMAGE, fits.Header({"CTYPE1": "RA", "CDELT1": 0.0}))),
        IMAGE,
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_values_are_those_of_the_header(name: str) -> None:
    content, expected = GOOD[name]
    pixels = FitsDecoder()(content())
    assert np.array_equal(pixels, expected.astype(np.float32))
    assert pixels.dtype == np.dtype("=f4")
    assert pixels.flags.c_contiguous


def test_a_file_without_the_padding_of_its_last_block_is_whole() -> None:
    content = plain(IMAGE.astype(">f4"))
    assert np.array_equal(FitsDecoder()(content[: 2880 + IMAGE.size * 4]), IMAGE)


def test_the_hash_is_that_of_the_file(fits_survey) -> None:
    survey = open_survey(fits_survey.spec)
    for row, cutout in enumerate(survey.read(survey.catalogue)):
        assert isinstance(cutout, Cutout)
        assert cutout.sha256 == hashlib.sha256(fits_survey.file(row).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "cards",
    [
        {},
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CD1_1": 0.0, "CD2_2": 0.0},
        {"CTYPE1": "RA---TAN", "CTYPE2": "GLAT-TAN", "CRVAL1": 1e300, "CDELT1": 0.0},
        {"CTYPE1": "NONSENSE", "CRPIX1": "text", "WCSAXES": 7},
    ],
)
def test_no_or_a_nonsensical_wcs_does_not_matter(fits_survey, cards: dict[str, object]) -> None:
    # Positions are the catalogue's; a cutout's own are never used.
    fits.PrimaryHDU(fits_survey.pixels[0], fits.Header(cards)).writeto(
        fits_survey.file(0), overwrite=True
    )
    cutout = open_survey(fits_survey.spec).read([0])[0]
    assert np.array_equal(cutout.pixels, fits_survey.pixels[0])
