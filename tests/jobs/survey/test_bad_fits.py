"""Every bad FITS file: its code, one line that names it, and neighbours read as if it was well."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from conformance.bad_fits import BAD, IMAGE, encoded, plain, with_value

from jobs.survey.reader import Cutout, ReadFailure
from jobs.survey.survey import open_reader, open_survey

ROW = 2


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
