"""Cutouts in a Zarr array, a row for each object: a store of one's own, or a simulation's."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore

from .arrays import IMAGE_NAMES, check_block, check_numbers, check_size, refused
from .reader import UnreadableError
from .rows import Images


class ZarrRows:
    """The rows of one array (object, ...) of a local store."""

    def __init__(self, store: str, array: str | None) -> None:
        """Open the array.

        Parameters
        ----------
        store
            Folder of the store.
        array
            Path of the array in it; None finds one by its usual names.

        Raises
        ------
        RefusedError
            If there is no such array that can be read row by row.
        """
        with refused(store):
            self._images, name = _find(store, array)
            if self._images.ndim not in (3, 4):
                fact = f"array {name!r} has shape {self._images.shape}: (object, band, y, x)"
                raise UnreadableError("wrong_dimensions", f"{fact} is needed")
            check_numbers(self._images.dtype)
            check_size(self._images.shape[1:])
            check_block(self.block, self._images.shape[1:])
            self._folder = os.path.join(store, name)
            self._check_rows()
        self._where = f"{store}/{name}".rstrip("/")

    @property
    def rows(self) -> int:
        """Return the number of objects."""
        return int(self._images.shape[0])

    @property
    def block(self) -> int:
        """Return how many rows a chunk has."""
        return int(self._images.chunks[0])

    def place(self, row: int) -> str:
        """Return the array and the row."""
        return f"{self._where} row {row}"

    def read(self, start: int, stop: int) -> Images:
        """Read some rows of one chunk."""
        for file in self._files(start):
            try:
                missing = os.stat(file).st_size == 0
            except FileNotFoundError:
                missing = True
            if missing:
                # Zarr would answer with the fill value, and nobody would notice.
                raise UnreadableError("missing_chunk", "its chunk is not stored: write it again")
        return np.asarray(self._images[start:stop])

    def stamp(self, row: int) -> int:
        """Return 0: a store is many files, whose checksums and hashes tell of changes."""
        return 0

    def _files(self, row: int) -> list[str]:
        """Return the files that hold a row."""
        stored = self._images.shards or self._images.chunks
        counts = [
            range(-(-size // step))
            for size, step in zip(self._images.shape[1:], stored[1:], strict=True)
        ]
        corners = np.stack(np.meshgrid(*counts, indexing="ij"), -1).reshape(-1, len(counts))
        encode = self._images.metadata.encode_chunk_key
        first = row // stored[0]
        return [
            os.path.join(self._folder, encode((first, *map(int, corner)))) for corner in corners
        ]

    def _check_rows(self) -> None:
        """Refuse more rows than can be there: metadata may declare any number."""
        if self.rows == 0:
            raise UnreadableError("no_image", "has no rows: there is nothing to do")
        stored = (self._images.shards or self._images.chunks)[0]
        declared = -(-self.rows // stored)
        last_key = self._images.metadata.encode_chunk_key((0,) * self._images.ndim)
        folder = os.path.join(self._folder, last_key.split("/")[0] if "/" in last_key else "")
        with os.scandir(folder) as entries:
            found = sum(1 for _ in entries)
        if 2 * found < declared:
            fact = f"declares {declared} blocks of rows, of which {found} are stored"
            raise UnreadableError("missing_chunk", f"{fact}: finish writing it")


def _find(store: str, array: str | None) -> tuple[zarr.Array[Any], str]:
    root = zarr.open(LocalStore(store, read_only=True), mode="r")
    if isinstance(root, zarr.Array):
        return root, ""
    names = IMAGE_NAMES if array is None else (array,)
    for name in names:
        found = root.get(name)
        if isinstance(found, zarr.Array):
            return found, name
    fact = f"has no array {' or '.join(map(repr, names))}: correct survey.array"
    raise UnreadableError("missing_array", fact)


def columns_beside(store: str, rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays that have a value for each object: of the group catalogue, or the root."""
    with refused(store):
        root = zarr.open(LocalStore(store, read_only=True), mode="r")
        if not isinstance(root, zarr.Group):
            return {}
        group = root.get("catalogue")
        arrays = (group if isinstance(group, zarr.Group) else root).arrays()
        return {
            name: np.asarray(array[:])
            for name, array in sorted(arrays)
            if array.shape == (rows,) and array.dtype.kind in "biufTO"
        }
