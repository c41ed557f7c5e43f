"""Where the images of a survey are: a folder of files, or the rows of one file or store."""

from __future__ import annotations

import os

from jobs.errors import RefusedError
from jobs.specs.survey import SurveySpec

from .hdf5 import Hdf5Rows
from .parquet import ParquetRows, parquet_files
from .rows import RowSource
from .simulated import simulated_rows
from .zarr_rows import ZarrRows


def survey_place(spec: SurveySpec) -> str:
    """Return the absolute path of the survey's folder, or of the file that holds its rows.

    Raises
    ------
    RefusedError
        If it is not there.
    """
    may_be_file = spec.format in ("hdf5", "parquet")
    if not os.path.isdir(spec.path) and not (may_be_file and os.path.isfile(spec.path)):
        what = "file or folder" if may_be_file else "folder"
        raise RefusedError(f"survey.path: '{spec.path}' is no {what} on this machine; correct it")
    return os.path.abspath(spec.path)


def open_rows(spec: SurveySpec, bands: int | None = None) -> RowSource | None:
    """Open the array or table whose rows are the objects; None where each has a file of its own.

    Raises
    ------
    RefusedError
        If it can't be used.
    """
    place = survey_place(spec)
    if spec.format == "simulated":
        return simulated_rows(place)
    if spec.format == "zarr":
        return ZarrRows(place, spec.array)
    if spec.format == "parquet":
        return ParquetRows(place, spec.array, bands)
    if spec.by_row:
        return Hdf5Rows(place, spec.array)
    return None


def container_files(spec: SurveySpec) -> list[str]:
    """List the files whose state tells whether the rows of a survey changed."""
    place = survey_place(spec)
    if spec.format == "parquet":
        return parquet_files(place)
    if spec.format == "hdf5":
        return [place]
    folders = sorted(os.walk(place))
    return [os.path.join(folder, name) for folder, _, names in folders for name in sorted(names)]
