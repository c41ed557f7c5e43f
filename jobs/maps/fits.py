"""Sky maps as a FITS table of HEALPix cells that healpy, astropy and Aladin read.

The form is the "explicit, partial" one of the HEALPix FITS convention: a column of cell numbers and
a column per quantity, for populated cells only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from .healpix import SkyTable

_FITS_UNITS = {"1": "", "nat": "nat", "objects": "count"}


def write_sky_fits(table: SkyTable, path: Path, *, run: str, partial: bool) -> None:
    """Write a sky table as FITS.

    Parameters
    ----------
    table : the populated cells
    path : file to write; an old one is replaced
    run : name of the run, for the header
    partial : whether the run was unfinished, for the header
    """
    hdu = fits.BinTableHDU.from_columns(_columns(table), name="HEALPIX")
    cards = {
        "PIXTYPE": ("HEALPIX", "HEALPix pixelisation"),
        "ORDERING": ("NESTED", "pixel numbering"),
        "COORDSYS": ("C", "celestial: ICRS"),
        "NSIDE": (table.nside, "resolution"),
        "INDXSCHM": ("EXPLICIT", "cell numbers are in column PIXEL"),
        "OBJECT": ("PARTIAL", "populated cells only"),
        "OBS_NPIX": (len(table.cells), "number of cells"),
        "RUN": (_ascii(run), "name of the run"),
        "UNFINISH": (partial, "T: aggregated before the run was complete"),
    }
    for keyword, card in cards.items():
        hdu.header[keyword] = card
    hdu.header.add_comment("Cells with too few objects keep COUNT; their means are NaN.")
    hdu.header.add_comment(
        "<quantity>_SE: standard error of the mean; <quantity>_N: objects in it."
    )
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path, overwrite=True, checksum=False)


def _columns(table: SkyTable) -> list[fits.Column]:
    columns = [
        fits.Column("PIXEL", "K", array=table.cells),
        _column("COUNT", "K", table.count, "objects"),
    ]
    for name, means in table.means.items():
        upper, unit = name.upper(), means.quantity.units
        columns += [
            _column(upper, "D", means.mean, unit),
            _column(f"{upper}_SE", "D", means.standard_error, unit),
            _column(f"{upper}_N", "K", means.number, "objects"),
        ]
    return columns


def _column(name: str, form: str, values: NDArray[np.generic], unit: str) -> fits.Column:
    return fits.Column(name, form, unit=_FITS_UNITS.get(unit, unit), array=values)


def _ascii(text: str) -> str:
    """FITS headers hold printable ASCII, 68 characters to a value."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:60]
