"""Parquet tables with a column of image files, such as data sets on model hubs are shared as."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet as pq

from .arrays import IMAGE_NAMES, refused
from .files import MAX_FILE_BYTES
from .fits import FitsDecoder
from .images import ImageDecoder
from .reader import UnreadableError, file_stamp
from .rows import Encoded, Images

_GROUP_BYTES = MAX_FILE_BYTES
"""Unpacked bytes of images that one row group may have."""


class ParquetRows:
    """The rows of one table, or of all tables of a folder in the order of their names.

    A cell holds the bytes of a PNG, JPEG or FITS file, alone or as the field ``bytes``.
    """

    def __init__(self, path: str, array: str | None, bands: int | None) -> None:
        """Open the tables.

        Raises
        ------
        RefusedError
            If one can't be read, or lacks the column.
        """
        self._files = parquet_files(path)
        self._bands = bands
        groups: list[tuple[str, int, int]] = []
        self._column = array or ""
        for file in self._files:
            with refused(file), pq.ParquetFile(file) as opened:
                self._column = self._column or _image_column(opened.schema_arrow)
                leaf = _leaf(opened.schema_arrow, self._column)
                groups += [
                    (file, number, _group_rows(opened.metadata.row_group(number), leaf))
                    for number in range(opened.metadata.num_row_groups)
                ]
        groups = [group for group in groups if group[2]]
        self._groups = groups
        self._held: tuple[int, pa.ChunkedArray] | None = None
        """The row group that was read last: the next block of rows is most likely in it."""
        self._starts = list(itertools.accumulate((rows for _, _, rows in groups), initial=0))

    @property
    def rows(self) -> int:
        """Return the number of objects."""
        return self._starts[-1]

    @property
    def block(self) -> int:
        """Return how many rows are read together."""
        return 64

    def place(self, row: int) -> str:
        """Return the table and the row in it."""
        if not 0 <= row < self.rows:
            return f"{self._files[0]} row {row}"
        file, start = self._group(row)[0], self._file_start(row)
        return f"{file} row {row - start}"

    def read(self, start: int, stop: int) -> Images:
        """Read and decode some rows."""
        return [self._decoded(cell) for cell in self._cells(start, stop)]

    def stamp(self, row: int) -> int:
        """Return the stamp of the table that holds a row."""
        return file_stamp(os.stat(self._group(row)[0]))

    def stamps(self) -> npt.NDArray[np.int64]:
        """Return the stamp of every row."""
        each = [file_stamp(os.stat(file)) for file, _, _ in self._groups]
        return np.repeat(np.array(each, dtype=np.int64), [rows for _, _, rows in self._groups])

    def _group(self, row: int) -> tuple[str, int, int]:
        return self._groups[bisect.bisect_right(self._starts, row) - 1]

    def _file_start(self, row: int) -> int:
        file = self._group(row)[0]
        number = next(i for i, group in enumerate(self._groups) if group[0] == file)
        return self._starts[number]

    def _cells(self, start: int, stop: int) -> list[bytes | None]:
        cells: list[bytes | None] = []
        while start < stop:
            number = bisect.bisect_right(self._starts, start) - 1
            end = min(stop, self._starts[number + 1])
            first = start - self._starts[number]
            cells += self._read_group(number, first, end - start)
            start = end
        return cells

    def _read_group(self, number: int, first: int, count: int) -> list[bytes | None]:
        if self._held is None or self._held[0] != number:
            self._held = None  # two groups at once would take twice the memory
            file, group, _ = self._groups[number]
            with pq.ParquetFile(file, page_checksum_verification=True) as opened:
                table = opened.read_row_group(group, columns=[self._column], use_threads=False)
            self._held = number, table.column(0)
        column = self._held[1].slice(first, count)
        if pa.types.is_struct(column.type):
            return [cell["bytes"] if cell else None for cell in column.to_pylist()]
        return list(column.to_pylist())

    def _decoded(self, cell: bytes | None) -> Encoded | UnreadableError:
        """Decode one cell; its failure is its own and not its neighbours'."""
        if not cell:
            return UnreadableError("empty_file", "its cell is empty: fetch the image again")
        fits = cell.startswith((b"SIMPLE", b"\x1f\x8b"))
        decode = FitsDecoder() if fits else ImageDecoder(self._bands)
        try:
            return Encoded(decode(cell), hashlib.sha256(cell).hexdigest())
        except UnreadableError as error:
            return error
        except MemoryError:
            raise
        except Exception as error:  # damaged bytes make parsers raise whatever there is
            fact = f"damaged: {str(error) or type(error).__name__}: fetch the image again"
            return UnreadableError("corrupt_file", fact)


def parquet_files(path: str) -> list[str]:
    """Return the table, or the tables of a folder.

    Raises
    ------
    RefusedError
        If there is none.
    """
    if not os.path.isdir(path):
        return [path]
    names = sorted(name for name in os.listdir(path) if name.endswith(".parquet"))
    with refused(path):
        if not names:
            raise UnreadableError("missing_file", "holds no file named .parquet; correct the path")
    return [os.path.join(path, name) for name in names]


def _image_column(schema: pa.Schema) -> str:
    names = [name for name in IMAGE_NAMES if name in schema.names]
    if not names:
        shown = ", ".join(schema.names[:20])
        fact = f"has no column {' or '.join(map(repr, IMAGE_NAMES))}; there are {shown}"
        raise UnreadableError("missing_array", f"{fact}: name one in survey.array")
    return names[0]


def _leaf(schema: pa.Schema, name: str) -> str:
    """Return the path of the column's bytes in the file."""
    if name not in schema.names:
        raise UnreadableError("missing_array", f"has no column {name!r}: correct survey.array")
    kind = schema.field(name).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind, name = kind.field("bytes").type, f"{name}.bytes"
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        fact = f"column {name!r} is {kind}: image files as bytes are needed"
        raise UnreadableError("wrong_type", fact)
    return name


def _group_rows(group: Any, leaf: str) -> int:
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema == leaf and column.total_uncompressed_size > _GROUP_BYTES:
            fact = f"has row groups of {column.total_uncompressed_size} bytes, the limit is"
            raise UnreadableError("too_large", f"{fact} {_GROUP_BYTES}: write smaller ones")
    return int(group.num_rows)
