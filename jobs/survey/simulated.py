"""Cutouts of a finished simulation run: rows of one Zarr array."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import zarr

from jobs.errors import RefusedError

from .catalogue import Catalogue
from .reader import Cutout, Expected, ReadFailure, UnreadableError
from .tables import STORE, simulation_group

IMAGES = "cutout/image"


class SimulatedReader:
    """Read rows of ``cutout/image`` (object, band, y, x), one stored chunk at a time.

    A chunk is read once for all rows wanted of it, so rows that lie together are cheap and
    memory is that of one chunk.
    """

    def __init__(self, run: str, expected: Expected) -> None:
        """Open the run.

        Raises
        ------
        RefusedError
            If there is no such array.
        """
        array = simulation_group(run).get(IMAGES)
        if not isinstance(array, zarr.Array) or array.ndim != 4:
            raise RefusedError(f"{run}: {STORE} has no array {IMAGES}; simulate the survey again")
        self._images: zarr.Array[Any] = array
        self._where = f"{run}/{STORE}/{IMAGES}"
        self.expected = expected

    @property
    def bands(self) -> int | None:
        """Return the number of bands of every cutout."""
        return self.expected.bands

    @property
    def shape(self) -> tuple[int, int] | None:
        """Return height and width of every cutout."""
        return self.expected.shape

    def read(self, rows: Catalogue) -> list[Cutout | ReadFailure]:
        """Read the given rows, in their order."""
        wanted = rows.table["row"].to_numpy()
        found: dict[int, Cutout | ReadFailure] = {}
        length = self._images.chunks[0]
        for chunk in np.unique(wanted // length).tolist():
            inside = np.unique(wanted[wanted // length == chunk]).tolist()
            found.update(self._read_chunk(chunk * length, inside))
        return [found[row] for row in wanted.tolist()]

    def _read_chunk(self, start: int, rows: list[int]) -> dict[int, Cutout | ReadFailure]:
        stop = min(start + self._images.chunks[0], self._images.shape[0])
        try:
            slab = np.asarray(self._images[max(start, 0) : stop])
        except (OSError, MemoryError):
            raise
        except Exception as error:  # a damaged chunk makes codecs raise whatever there is
            fact = f"its chunk is damaged ({type(error).__name__}): simulate the survey again"
            failure = UnreadableError("corrupt_file", fact)
            return {row: failure.failure(f"{self._where} row {row}") for row in rows}
        return {row: self._cutout(slab, row - start, row) for row in rows}

    def _cutout(self, slab: Any, offset: int, row: int) -> Cutout | ReadFailure:
        try:
            if not 0 <= offset < len(slab):
                fact = f"there are {self._images.shape[0]} rows: read the run's catalogue again"
                raise UnreadableError("missing_row", fact)
            stored = np.array(slab[offset], dtype=np.float32, order="C")
            pixels = self.expected.conform(stored)
        except UnreadableError as error:
            return error.failure(f"{self._where} row {row}")
        return Cutout(pixels, hashlib.sha256(stored.tobytes()).hexdigest())
