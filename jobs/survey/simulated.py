"""Cutouts of a finished simulation run: rows of one Zarr array."""

from __future__ import annotations

import os

import zarr

from jobs.errors import RefusedError

from .tables import STORE, simulation_group
from .zarr_rows import ZarrRows

IMAGES = "cutout/image"


def simulated_rows(run: str) -> ZarrRows:
    """Open ``cutout/image`` (object, band, y, x) of a run.

    Raises
    ------
    RefusedError
        If there is no such array.
    """
    array = simulation_group(run).get(IMAGES)
    if not isinstance(array, zarr.Array) or array.ndim != 4:
        raise RefusedError(f"{run}: {STORE} has no array {IMAGES}; simulate the survey again")
    return ZarrRows(os.path.join(run, STORE), IMAGES)
