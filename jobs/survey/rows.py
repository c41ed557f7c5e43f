"""Reader of surveys that keep all cutouts in one array, a row for each object."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .arrays import band_first
from .catalogue import Catalogue
from .memory import memory_limit
from .reader import Cutout, Expected, ReadFailure, UnreadableError, as_planned, check_stamp

Images = Sequence[Any] | npt.NDArray[Any]
"""Arrays, or what `Encoded` holds, or the errors of single rows."""


class RowSource(Protocol):
    """An array (object, ...) that is read in blocks of rows."""

    @property
    def rows(self) -> int:
        """Return the number of objects."""
        ...

    @property
    def block(self) -> int:
        """Return how many rows are stored, and so best read, together."""
        ...

    def place(self, row: int) -> str:
        """Return the file and the row in it, for messages."""
        ...

    def read(self, start: int, stop: int) -> Images:
        """Read the images of some rows, which lie in one block.

        Raises
        ------
        UnreadableError
            If none of them can be read; or any other error, for what makes no sense.
        """
        ...

    def stamp(self, row: int) -> int:
        """Return what `reader.file_stamp` says of the file that holds a row; 0 where unknown."""
        ...


@dataclass(frozen=True)
class RowReader:
    """Read rows of a source, one stored block at a time.

    A block is read once for all rows wanted of it, so rows that lie together are cheap and memory
    is that of one block.
    """

    source: RowSource
    expected: Expected
    bands_last: bool = False

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
        stamps = dict(zip(wanted.tolist(), rows.stamps, strict=True))
        found: dict[int, Cutout | ReadFailure] = {}
        length = self.source.block
        for block in np.unique(wanted // length).tolist():
            inside = np.unique(wanted[wanted // length == block]).tolist()
            found.update(self._read_block(block * length, inside, stamps))
        return as_planned(rows, [found[row] for row in wanted.tolist()])

    def _read_block(
        self, start: int, rows: list[int], stamps: dict[int, int]
    ) -> dict[int, Cutout | ReadFailure]:
        start, stop = max(start, 0), min(start + self.source.block, self.source.rows)
        known = [row for row in rows if start <= row < stop]
        answers: dict[int, Cutout | ReadFailure] = {}
        images: Images = ()
        failure = UnreadableError(
            "missing_row", f"there are {self.source.rows} rows: read the run's catalogue again"
        )
        if known:
            try:
                for row in known:
                    check_stamp(stamps[row], self.source.stamp(row))
                start, stop = known[0], known[-1] + 1
                with memory_limit():
                    images = self.source.read(start, stop)
            except UnreadableError as error:
                failure, known = error, []
            except MemoryError:
                failure, known = UnreadableError("too_large", _BOMB), []
            except OSError as error:
                if error.errno is not None:
                    raise
                failure, known = _damaged(error), []
            except Exception as error:  # a damaged block makes codecs raise whatever there is
                failure, known = _damaged(error), []
        for row in rows:
            if row in known:
                answers[row] = self._cutout(images[row - start], row)
            else:
                answers[row] = failure.failure(self.source.place(row))
        return answers

    def _cutout(self, image: Any, row: int) -> Cutout | ReadFailure:
        try:
            if isinstance(image, UnreadableError):
                raise image
            if isinstance(image, Encoded):
                return Cutout(self.expected.conform(image.pixels), image.sha256)
            stored = band_first(np.asarray(image), self.bands_last)
            pixels = self.expected.conform(stored)
        except UnreadableError as error:
            return error.failure(self.source.place(row))
        return Cutout(pixels, hashlib.sha256(stored.tobytes()).hexdigest())


@dataclass(frozen=True, eq=False)
class Encoded:
    """An image that was a file inside a cell."""

    pixels: npt.NDArray[np.float32]
    sha256: str
    """Of the cell's bytes."""


_BOMB = "takes more memory to unpack than one cutout may: cut out less sky"


def _damaged(error: Exception) -> UnreadableError:
    fact = f"its chunk is damaged ({type(error).__name__}): write the survey again"
    return UnreadableError("corrupt_file", fact)
