"""From a survey's files, tables and arrays to its catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.errors import RefusedError
from jobs.specs.survey import Columns, SurveySpec

from .catalogue import FIRST, Catalogue
from .columns import ALIASES, find_columns, normalise
from .hdf5 import Hdf5Rows
from .listing import SUFFIXES, find_files, readable_files
from .parquet import parquet_files
from .places import open_rows, survey_place
from .tables import SourceTable, from_numpy, in_memory, open_table, simulation_table
from .zarr_rows import columns_beside


def read_catalogue(spec: SurveySpec) -> Catalogue:
    """Read the catalogue of a survey.

    Raises
    ------
    RefusedError
        If the survey or the table isn't there, lacks a column that is named or needed, or is
        empty, or has another number of rows than the cutouts.
    """
    root = survey_place(spec)
    if spec.by_row:
        table, source = _rows_as_objects(spec)
    elif spec.catalogue is None:
        table, source = _files_as_objects(root, spec.format), spec.path
    else:
        opened = open_table(spec.catalogue, lambda names: _text_columns(names, spec))
        table, source = _with_paths(opened, spec, root), spec.catalogue
    if table.num_rows == 0:
        raise RefusedError(f"{source}: the catalogue is empty: there is nothing to do")
    pa.default_memory_pool().release_unused()  # decoding leaves as much again behind
    return Catalogue(table, source)


def _text_columns(names: list[str], spec: SurveySpec) -> set[str]:
    found = find_columns(names, spec.columns, str(spec.catalogue))
    return {found[part] for part in ("id", "label", "path") if part in found}


def _rows_as_objects(spec: SurveySpec) -> tuple[pa.Table, str]:
    """Describe rows by a table in their order, or else by the columns beside the images."""
    if spec.format == "simulated":
        opened = simulation_table(spec.path)
        rows = 0
    else:
        source = open_rows(spec)
        assert source is not None
        rows = source.rows
        if spec.catalogue is not None:
            opened = open_table(spec.catalogue, lambda names: _text_columns(names, spec))
        else:
            opened = _beside(spec, rows)
    found = find_columns(list(opened.types), spec.columns, opened.place)
    table = normalise(opened, {part: name for part, name in found.items() if part != "path"})
    if spec.format != "simulated" and table.num_rows != rows:
        raise RefusedError(
            f"{opened.place}: the catalogue has {table.num_rows} rows, {spec.path} has {rows}; "
            "give one row for each cutout, in their order"
        )
    row = pa.array(np.arange(table.num_rows, dtype=np.int64))
    return table.add_column(len(FIRST), "row", row), opened.place


def _with_paths(opened: SourceTable, spec: SurveySpec, root: str) -> pa.Table:
    found = find_columns(list(opened.types), spec.columns, opened.place)
    table = normalise(opened, found, root)
    if "path" in found:
        return table
    return table.add_column(len(FIRST), "path", find_files(root, spec.format, table["id"]))


def _files_as_objects(root: str, file_format: str) -> pa.Table:
    paths, names = readable_files(root, file_format)
    if len(paths) == 0:
        raise RefusedError(
            f"survey.path: '{root}' holds no file named {', '.join(SUFFIXES[file_format])}; "
            "correct survey.path or survey.format"
        )
    types = {"id": pa.string(), "path": pa.string()}
    listed = pa.table({"id": names, "path": paths})
    source = SourceTable(root, types, listed.column)
    return normalise(source, find_columns(["id", "path"], Columns(), root))


def _beside(spec: SurveySpec, rows: int) -> SourceTable:
    """Return the columns that a file or store of cutouts has beside them.

    Where none is an identifier, objects are called after the number of their row.
    """
    if spec.format == "parquet":
        parts = [_described(file) for file in parquet_files(spec.path)]
        table = pa.concat_tables(parts, promote_options="default")
    elif spec.format == "zarr":
        table = _table(columns_beside(spec.path, rows))
    else:
        table = _table(Hdf5Rows(spec.path, spec.array).columns())
    names = [name.lower() for name in table.column_names]
    if spec.columns.id is None and not any(alias in names for alias in ALIASES["id"]):
        numbers = pa.array(np.arange(rows)).cast(pa.string())
        table = table.add_column(0, "id", numbers)
    return in_memory(spec.path, table)


def _described(file: str) -> pa.Table:
    """Read the columns of a table of images that are no images."""
    opened = open_table(file, lambda names: set())
    plain = {name: kind for name, kind in opened.types.items() if not pa.types.is_nested(kind)}
    wanted = [name for name, kind in plain.items() if not pa.types.is_large_binary(kind)]
    wanted = [name for name in wanted if not pa.types.is_binary(plain[name])]
    return pa.table({name: opened.load(name) for name in wanted})


def _table(columns: Mapping[str, np.ndarray[Any, Any]]) -> pa.Table:
    return pa.table({name: from_numpy(values) for name, values in columns.items()})
