"""What a reader is: catalogue rows in, a cutout or the reason why there is none out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from cluster.text import one_line, redact
from cluster.unit import ObjectFailure

from .catalogue import Catalogue
from .codes import ERROR_CODES

Pixels = npt.NDArray[np.float32]

MAX_PIXELS = 2**26
"""Values that one image may declare (256 MB as float32): more is refused before it is decoded."""


@dataclass(frozen=True, eq=False)
class Cutout:
    """The pixels of one object, as the survey has them."""

    pixels: Pixels
    """(band, y, x), float32, native byte order, C-contiguous, all finite; survey units."""
    sha256: str
    """Hex digest of what was read: the file's bytes, or the stored pixels where there is none."""


@dataclass(frozen=True, slots=True)
class ReadFailure:
    """Why one object can't be read; it takes the cutout's place in a reader's answer."""

    code: str
    """A key of `ERROR_CODES`."""
    reason: str
    """One line: file, fact, cure."""

    def __post_init__(self) -> None:
        assert self.code in ERROR_CODES, self.code

    def of(self, index: int, id: str) -> ObjectFailure:
        """Return the failure of the object in row `index` of the run's catalogue."""
        return ObjectFailure(index, id, self.code, self.reason)


class UnreadableError(Exception):
    """Raised inside readers for one bad object; never leaves them."""

    def __init__(self, code: str, fact: str) -> None:
        super().__init__(code, fact)
        self.code = code
        self.fact = fact

    def failure(self, where: str) -> ReadFailure:
        """Return the failure, its reason beginning with the file or row that it is about."""
        return ReadFailure(self.code, redact(one_line(f"{where}: {self.fact}")))


class Reader(Protocol):
    """Read objects of one survey; it needs only their catalogue rows, never the whole catalogue.

    ``bands`` and ``shape`` are what every cutout must have; None accepts any.
    """

    @property
    def bands(self) -> int | None:
        """Return the number of bands of every cutout."""
        ...

    @property
    def shape(self) -> tuple[int, int] | None:
        """Return height and width of every cutout."""
        ...

    def read(self, rows: Catalogue) -> list[Cutout | ReadFailure]:
        """Read the given rows, in their order.

        Raises
        ------
        OSError
            If the storage itself fails (too many open files, an input/output error): that says
            nothing about the object, and the same rows can be read again.
        """
        ...


@dataclass(frozen=True)
class Expected:
    """What every cutout of a survey must be like."""

    bands: int | None = None
    shape: tuple[int, int] | None = None
    nan: Literal["refuse"] | float = "refuse"

    def conform(self, pixels_CHW: Pixels) -> Pixels:
        """Check one cutout, and fill its non-finite pixels where that is wanted.

        Raises
        ------
        UnreadableError
            If bands or shape differ, or pixels are not finite.
        """
        bands, *shape = pixels_CHW.shape
        if 0 in pixels_CHW.shape:
            raise UnreadableError("no_image", "is an image without pixels: fetch it again")
        if self.bands is not None and bands != self.bands:
            swapped = pixels_CHW.shape[-1] == self.bands
            hint = "it looks like (y, x, band): write it band first" if swapped else "leave it out"
            fact = f"has {bands} bands where {self.bands} are expected: {hint}"
            raise UnreadableError("wrong_bands", fact)
        if self.shape is not None and tuple(shape) != self.shape:
            fact = (
                f"is {shape[0]} x {shape[1]} px where {self.shape[0]} x {self.shape[1]} px are "
                "expected: set preprocess.size to resize all objects to one shape"
            )
            raise UnreadableError("wrong_shape", fact)
        filled = self._filled(pixels_CHW)
        if filled.size > 1 and filled.min() == filled.max():
            fact = f"every pixel is {filled.flat[0]:g}: there is nothing to explain; leave it out"
            raise UnreadableError("constant_image", fact)
        return filled

    def _filled(self, pixels_CHW: Pixels) -> Pixels:
        finite = np.isfinite(pixels_CHW)
        count = int(finite.sum())
        if count == finite.size:
            return pixels_CHW
        if count == 0:
            fact = "every pixel is NaN or infinite: leave the object out, or mend it"
            raise UnreadableError("no_finite_pixels", fact)
        if self.nan == "refuse":
            fact = (
                f"{finite.size - count} of {finite.size} pixels are NaN or infinite: set "
                "survey.nan to a value that takes their place, such as 0.0, or mend it"
            )
            raise UnreadableError("non_finite_pixels", fact)
        return np.where(finite, pixels_CHW, np.float32(self.nan))


def file_stamp(info: os.stat_result) -> int:
    """Return a number that tells one state of a file from another: of size and modification."""
    state = f"{info.st_size} {info.st_mtime_ns}".encode()
    return int.from_bytes(hashlib.sha256(state).digest()[:8], "little", signed=True)


def check_stamp(planned: int, found: int) -> None:
    """Compare a file with what it was when the run was planned; 0 says that nobody knows.

    Raises
    ------
    UnreadableError
        If it is another one.
    """
    if planned and found and planned != found:
        raise _changed()


def as_planned(
    rows: Catalogue, answers: Sequence[Cutout | ReadFailure]
) -> list[Cutout | ReadFailure]:
    """Put a failure in the place of each cutout that is not what was hashed when planning."""
    return [
        _changed().failure(id_)
        if planned and isinstance(answer, Cutout) and answer.sha256 != planned
        else answer
        for answer, planned, id_ in zip(answers, rows.content, rows.ids, strict=True)
    ]


def _changed() -> UnreadableError:
    fact = "changed since the run was planned: start a new run, with another output"
    return UnreadableError("changed_file", fact)
