"""Where a survey's cutouts and catalogue are, and how pixels become network input."""

from __future__ import annotations

import os
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .base import Spec

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Pixels = Annotated[int, Field(ge=1, le=8192)]


PICTURES = ("images", "parquet")
"""Formats whose bands are red, green, blue, and whose row 0 is at the top."""


class Columns(Spec):
    """Which catalogue columns play which part; what is not given is found by its usual names."""

    id: str | None = None
    """Unique identifier (id_str, id, object_id, objid, iauname, dr8_id, targetid)."""
    ra: str | None = None
    """Right ascension, ICRS, in degrees (ra, ra_deg)."""
    dec: str | None = None
    """Declination, ICRS, in degrees (dec, dec_deg)."""
    label: str | None = None
    """Known class, if any (label, class, morphology, target)."""
    path: str | None = None
    """File of the cutout, relative to the survey's path (file_loc, filename, path). Without such
    a column the file is the one named after the id."""


class SurveySpec(Spec):
    """Cutouts on disk and the catalogue that lists them."""

    format: Literal["fits", "images", "npy", "hdf5", "parquet", "zarr", "simulated"]
    """`fits`: a folder of FITS cutouts (band, y, x). `images`: a folder of PNG or JPEG files,
    read as values from 0 to 1. `npy`: a folder of NumPy files. `hdf5`: a folder of HDF5 files with
    one image each, or one file with a row for each object. `parquet`: a table, or a folder of
    them, with a column of PNG, JPEG or FITS files. `zarr`: a Zarr store with a row for each object.
    `simulated`: the folder of a finished simulation run."""
    path: str = Field(min_length=1)
    """Folder of the cutouts, where the paths of the catalogue start, or the file or store that
    holds them all; a relative one starts at the folder of the job file."""
    catalogue: str | None = None
    """Parquet, CSV or FITS table, one row per object, in the order of the cutouts where these are
    rows of an array. Without it, every readable file is an object named after the file, and rows
    are described by the columns beside them. Not for `simulated`, which brings its own."""
    columns: Columns = Columns()
    """Names of catalogue columns, where they are not the usual ones."""
    nan: Literal["refuse"] | Finite = "refuse"
    """What to do with NaN or infinite pixels: `refuse` quarantines the object; a number takes
    their place, in the survey's own units (before the stretch). An object without a single
    finite pixel is always quarantined."""
    hdu: Annotated[int, Field(ge=0)] | str | None = None
    """FITS extension, by number or name; by default the first one with an image."""
    array: str | None = None
    """Dataset of HDF5, array of Zarr or column of Parquet that holds the images; by default the
    one of a usual name (image, images, cutout/image, cutout, cutouts, data)."""
    bands: Literal["first", "last"] = "first"
    """Whether arrays (npy, hdf5, zarr) are (band, y, x) or (y, x, band)."""
    values: Literal["auto", "float", "integer"] = "auto"
    """Type of the pixels in FITS, npy and HDF5 files: a file with whole numbers among files with
    fractions is most likely of another processing, and quarantined. `auto`: as the first one."""
    verify: Literal["stat", "content"] = "stat"
    """How a change of the survey is noticed. `stat`: by size and time of modification of each
    file. `content`: by a hash of each object's content, for which planning reads all of them."""

    @property
    def by_row(self) -> bool:
        """Whether the objects are rows of one file or store, and not files."""
        if self.format == "hdf5":
            return not os.path.isdir(self.path)
        return self.format in ("parquet", "zarr", "simulated")

    @model_validator(mode="after")
    def _fields_fit_the_format(self) -> Self:
        if self.hdu is not None and self.format != "fits":
            raise ValueError(f"hdu applies to format: fits, not {self.format}; remove it")
        if self.array is not None and self.format not in ("hdf5", "parquet", "zarr"):
            raise ValueError(
                f"array applies to format: hdf5, parquet and zarr, not {self.format}; remove it"
            )
        if self.bands == "last" and self.format not in ("npy", "hdf5", "zarr"):
            raise ValueError(
                f"bands applies to format: npy, hdf5 and zarr, not {self.format}; remove it"
            )
        if self.format == "simulated":
            if self.catalogue is not None:
                raise ValueError("a simulated survey brings its own catalogue; remove catalogue")
            if self.columns.path is not None:
                raise ValueError("a simulated survey has no files; remove columns.path")
        return self


class PreprocessSpec(Spec):
    """From survey pixels to network input: resize, stretch, then (x - mean) / std per band."""

    size: Literal["native"] | Pixels | tuple[Pixels, Pixels] = "native"
    """Pixels at the network's input: one number for a square, [height, width], or `native`: as
    they are, all of one shape. Numbers resize (bilinear, antialiased)."""
    stretch: Literal["linear", "asinh"] = "linear"
    """`linear`: x / scale. `asinh`: asinh(x / scale), which keeps faint and bright light apart."""
    scale: Positive = 1.0
    """Softening of the stretch, in survey units."""
    mean: tuple[Finite, ...] = ()
    """Subtracted after the stretch, one value per band; none means 0."""
    std: tuple[Positive, ...] = ()
    """Divided by after that, one value per band; none means 1."""

    @model_validator(mode="after")
    def _one_value_per_band(self) -> Self:
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} values and std {len(self.std)}; give one per band"
            )
        return self
