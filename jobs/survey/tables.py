"""The tables that catalogues come in: Parquet, CSV, FITS, and a simulation's own Zarr group."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import zarr
from astropy import units
from astropy.io import fits
from astropy.table import Table
from pyarrow import csv
from pyarrow import parquet as pq

from cluster.text import one_line
from jobs.errors import RefusedError

_BATCH = 65536
"""Rows that are decoded at once: it bounds the memory that reading takes beside the result."""

_FEW_ROWS, _ROWS_PER_BYTE = 1 << 20, 64
"""Identifiers are unique, and so take some space; even counted ones are not packed more tightly."""

STORE = "results.zarr"
"""Where a run folder keeps its arrays."""


@dataclass(frozen=True)
class SourceTable:
    """A table as the user has it, read column by column."""

    place: str
    """The file, for messages."""
    types: Mapping[str, pa.DataType]
    """Arrow type by column name, in the table's order."""
    load: Callable[[str], pa.ChunkedArray]
    """Read one column."""
    degrees: Mapping[str, float] = field(default_factory=dict)
    """Size in degrees of the unit of columns that are angles in another unit."""


def open_table(path: str, text_columns: Callable[[list[str]], set[str]]) -> SourceTable:
    """Open a Parquet, CSV or FITS table, which one told by its first bytes.

    Parameters
    ----------
    path
        The file.
    text_columns
        Given all column names, tell which hold text even where they look like numbers. Only a
        CSV file needs to be told.

    Raises
    ------
    RefusedError
        If there is no such file or it can't be read as a table.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(6)
        if start[:4] == b"PAR1":
            return _parquet_table(path)
        if start == b"SIMPLE":
            return _fits_table(path)
        return _csv_table(path, text_columns)
    except FileNotFoundError:
        raise RefusedError(f"survey.catalogue: '{path}' does not exist; correct the path") from None
    except (OSError, pa.ArrowException, ValueError, TypeError, MemoryError) as error:
        raise RefusedError(
            f"survey.catalogue: '{path}' can't be read as Parquet, CSV or FITS table: "
            f"{_first_line(error)}; save it again"
        ) from error


def _first_line(error: Exception) -> str:
    return one_line((str(error) or type(error).__name__).splitlines()[0])


def _parquet_table(path: str) -> SourceTable:
    file = pq.ParquetFile(path)
    _check_rows(file.metadata.num_rows, os.stat(path).st_size)
    names = file.schema_arrow.names
    types = {name: file.schema_arrow.types[i] for i, name in enumerate(names)}
    _refuse_repeated(path, names)

    def load(name: str) -> pa.ChunkedArray:
        # A column's name is a path in Parquet's terms: "a.b" would also name the field b of a.
        with pq.ParquetFile(path) as opened:
            try:
                batches = opened.iter_batches(_BATCH, columns=[name], use_threads=False)
                column = pa.chunked_array([batch.column(0) for batch in batches], types[name])
                pa.default_memory_pool().release_unused()  # decoding needs as much again
                return column
            except pa.ArrowException as error:
                raise RefusedError(
                    f"{path}: column '{name}' can't be read: {_first_line(error)}; save it again"
                ) from error

    file.close()
    return SourceTable(path, types, load)


def _check_rows(rows: int, stored: int) -> None:
    """Refuse a table that repeats one value more often than any catalogue does: a memory bomb."""
    if rows > _FEW_ROWS + _ROWS_PER_BYTE * stored:
        raise ValueError(f"it declares {rows} rows in {stored} bytes")


def _csv_table(path: str, text_columns: Callable[[list[str]], set[str]]) -> SourceTable:
    parse = csv.ParseOptions(newlines_in_values=True)
    with csv.open_csv(path, parse_options=parse) as stream:
        names = stream.schema.names
    _refuse_repeated(path, names)
    # Text stays as it is written: 0001 keeps its zeros, and 20 digits are no float.
    convert = csv.ConvertOptions(column_types=dict.fromkeys(text_columns(names), pa.string()))
    table = csv.read_csv(path, parse_options=parse, convert_options=convert)
    return in_memory(path, table)


def _fits_table(path: str) -> SourceTable:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd units and cards are no reason to refuse
        with fits.open(path) as hdus:
            tables = [i for i, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU)]
        if not tables:
            raise ValueError("no table extension")
        table = Table.read(path, format="fits", hdu=tables[0], character_as_bytes=False)
    columns, degrees = {}, {}
    for name in table.colnames:
        column = table[name]
        if column.ndim == 1 and column.dtype.kind in "biufU":
            columns[name] = from_numpy(np.asarray(column), getattr(column, "mask", None))
        if column.unit == units.hour:  # FITS has no hour angle: it is written as the time
            degrees[name] = 15.0
        elif column.unit is not None and column.unit.is_equivalent(units.deg):
            degrees[name] = float(column.unit.to(units.deg))
    source = in_memory(path, pa.table(columns))
    return SourceTable(path, source.types, source.load, degrees)


def simulation_table(run: str) -> SourceTable:
    """Open the catalogue of a finished simulation run.

    Raises
    ------
    RefusedError
        If the folder is no simulation run.
    """
    group = simulation_group(run)
    catalogue = group.get("catalogue")
    if not isinstance(catalogue, zarr.Group):
        raise RefusedError(f"{run}: {STORE} has no group 'catalogue'; simulate the survey again")
    columns = {
        name: from_numpy(np.asarray(array[:]))
        for name, array in sorted(catalogue.arrays())
        if array.ndim == 1
    }
    return in_memory(run, pa.table(columns))


def simulation_group(run: str) -> zarr.Group:
    """Open the store of a simulation run for reading.

    Raises
    ------
    RefusedError
        If there is none.
    """
    path = os.path.join(run, STORE)
    try:
        return zarr.open_group(zarr.storage.LocalStore(path, read_only=True), mode="r")
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise RefusedError(
            f"survey.path: '{run}' is no simulation run: it has no readable {STORE}; "
            "give the folder that `occulta run` wrote for a job of kind: simulation"
        ) from error


def from_numpy(values: np.ndarray[Any, Any], mask: Any = None) -> pa.Array:
    """Return values, in any byte order, as an Arrow array."""
    if values.dtype.kind in "OT":  # zarr's strings
        return pa.array(values.astype(object).tolist(), pa.string())
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    return pa.array(native, mask=mask)


def in_memory(place: str, table: pa.Table) -> SourceTable:
    """Return a table that is read already."""
    types = dict(zip(table.column_names, table.schema.types, strict=True))
    return SourceTable(place, types, table.column)


def _refuse_repeated(path: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise RefusedError(
            f"{path}: column '{one_line(repeated[0])}' appears more than once; rename one of them"
        )
