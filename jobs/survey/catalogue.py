"""The catalogue of a survey: one row per object, the same few columns whatever it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cluster.text import one_line
from cluster.unit import ObjectFailure

from .digest import table_digest

STAMP, CONTENT = "file_stamp", "content_sha256"
"""Columns that planning adds: the state of each object's file, and the hash of its content."""

FIRST = {"id": pa.string(), "ra": pa.float64(), "dec": pa.float64(), "label": pa.string()}
_BLOCK = 65536
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Objects of a survey, or a part of them; immutable, without nulls.

    The columns are ``id`` (string), ``ra`` and ``dec`` (float64, degrees, ICRS; NaN where
    unknown; RA from 0 to 360), ``label`` (string, empty where unknown), then ``path`` (string,
    relative to the survey's folder) or ``row`` (int64, where cutouts are rows of an array), then
    the survey's own numbers, booleans and strings under names that are safe for files.
    """

    table: pa.Table
    """The columns."""
    source: str = "the catalogue"
    """The file, for messages."""

    @classmethod
    def from_table(cls, table: pa.Table, source: str = "the catalogue") -> Catalogue:
        """Return a catalogue of rows that another catalogue's `table` gave."""
        for name, kind in FIRST.items():
            if name not in table.column_names or table.schema.field(name).type != kind:
                raise ValueError(f"a catalogue's table has a column '{name}' of type {kind}")
        return cls(table, source)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __reduce__(self) -> tuple[Any, ...]:
        # Arrow would pickle the whole buffers behind a slice; its stream format sends the rows.
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema) as stream:
            stream.write_table(self.table)
        return _unpickled, (sink.getvalue().to_pybytes(), self.source)

    def slice(self, start: int, stop: int) -> Catalogue:
        """Return rows start to stop, without a copy."""
        return Catalogue(self.table.slice(start, max(0, stop - start)), self.source)

    def take(self, indices: Sequence[int] | Rows) -> Catalogue:
        """Return the given rows, in the given order."""
        rows = pa.array(np.asarray(indices, dtype=np.int64))
        return Catalogue(self.table.take(rows), self.source)

    @property
    def ids(self) -> list[str]:
        """Return the identifiers."""
        return list(self.table["id"].to_pylist())

    @property
    def labels(self) -> list[str]:
        """Return the labels; empty where there is none."""
        return list(self.table["label"].to_pylist())

    @property
    def paths(self) -> list[str]:
        """Return the files, relative to the survey's folder."""
        return list(self.table["path"].to_pylist())

    @property
    def stamps(self) -> list[int]:
        """Return what `reader.file_stamp` said of the files when planning; 0 where unknown."""
        if STAMP not in self.table.column_names:
            return [0] * len(self)
        return list(self.table[STAMP].to_pylist())

    @property
    def content(self) -> list[str]:
        """Return the hashes that were taken when planning; empty where nothing was hashed."""
        if CONTENT not in self.table.column_names:
            return [""] * len(self)
        return list(self.table[CONTENT].to_pylist())

    def with_column(self, name: str, values: pa.Array) -> Catalogue:
        """Return the catalogue with one more column at its end."""
        return Catalogue(self.table.append_column(name, values), self.source)

    def digest(self) -> str:
        """Return the sha256 of names, types and values: equal content, equal digest."""
        return table_digest(self.table)

    def failures(self) -> list[ObjectFailure]:
        """Return the rows that can't be objects of a run, in row order, one failure each."""
        first: dict[int, ObjectFailure] = {}
        for failure in [*self._missing_ids(), *self.duplicates(), *self._bad_coordinates()]:
            first.setdefault(failure.index, failure)
        return [first[index] for index in sorted(first)]

    def duplicates(self) -> list[ObjectFailure]:
        """Return the rows whose identifier an earlier row has; that earlier row stays valid."""
        rows, earlier = _repeats(self.table["id"])
        return [
            self._failure(row, id_, "duplicate_id", _duplicate_fact(id_, first))
            for row, first, id_ in zip(rows, earlier, self.take(rows).ids, strict=True)
            if id_
        ]

    def _missing_ids(self) -> list[ObjectFailure]:
        rows = np.flatnonzero(pc.equal(self.table["id"], "").to_numpy())
        fact = "has no identifier: give it a unique one"
        return [self._failure(row, "", "missing_id", fact) for row in rows.tolist()]

    def _bad_coordinates(self) -> list[ObjectFailure]:
        ra, dec = self.table["ra"].to_numpy(), self.table["dec"].to_numpy()
        inside = (ra >= 0.0) & (ra < 360.0) & (np.abs(dec) <= 90.0)
        rows = np.flatnonzero(~inside & ~(np.isnan(ra) & np.isnan(dec)))
        return [
            self._failure(
                row,
                id_,
                "bad_coordinates",
                f"RA {ra[row]:g}, Dec {dec[row]:g} is no position on the sky in degrees: correct "
                "it, or leave both empty",
            )
            for row, id_ in zip(rows.tolist(), self.take(rows).ids, strict=True)
        ]

    def _failure(self, row: int, id_: str, code: str, fact: str) -> ObjectFailure:
        return ObjectFailure(row, id_, code, one_line(f"{self.source}: row {row}: {fact}"))


def _repeats(ids: pa.ChunkedArray) -> tuple[list[int], list[int]]:
    """Return the rows whose value an earlier row has, ascending, and the first row with it.

    Sorting, which keeps equal values in row order, takes a fraction of a hash table's memory.
    """
    order = pc.sort_indices(ids)
    repeats = np.zeros(len(ids), dtype=np.bool_)
    for start in range(0, len(ids) - 1, _BLOCK):
        block = ids.take(order.slice(start, _BLOCK + 1)).combine_chunks()
        same = pc.equal(block.slice(1), block.slice(0, len(block) - 1))
        repeats[start + 1 : start + len(block)] = same.to_numpy(zero_copy_only=False)
    places = np.flatnonzero(repeats)
    if len(places) == 0:
        return [], []
    first = np.maximum.accumulate(np.where(repeats, 0, np.arange(len(ids))))[places]
    rows, earlier = order.to_numpy()[places], order.to_numpy()[first]
    ascending = np.argsort(rows)
    return rows[ascending].tolist(), earlier[ascending].tolist()


def _duplicate_fact(id_: str, earlier: int) -> str:
    return f"id '{id_}' repeats row {earlier}, which is kept: make the ids unique or drop one row"


def _unpickled(stream: bytes, source: str) -> Catalogue:
    with pa.ipc.open_stream(stream) as reader:
        return Catalogue(reader.read_all(), source)
