"""A survey: its catalogue, and the cutouts behind it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from jobs.errors import RefusedError
from jobs.specs.survey import SurveySpec

from .catalogue import Catalogue, Rows, read_catalogue, survey_folder
from .files import FileReader
from .fits import FitsDecoder
from .images import ImageDecoder
from .reader import Cutout, Expected, Reader, ReadFailure
from .simulated import SimulatedReader

_PROBED = 1000
"""How many leading objects may be unreadable before a survey is refused."""
_MISSING = "missing"
_STAT_ROWS = 16384
_STAT_THREADS = 16
"""A network file system answers many questions at once, each slowly."""


def open_reader(
    spec: SurveySpec, bands: int | None = None, shape: tuple[int, int] | None = None
) -> Reader:
    """Open the reader of a survey's format; cheap, and independent of the survey's size.

    Parameters
    ----------
    spec
        The survey.
    bands
        Number of bands that every cutout must have; any if None.
    shape
        Height and width that every cutout must have; any if None.

    Raises
    ------
    RefusedError
        If the survey's folder isn't there.
    """
    root = survey_folder(spec)
    expected = Expected(bands, shape, spec.nan)
    if spec.format == "simulated":
        return SimulatedReader(root, expected)
    if spec.format == "fits":
        return FileReader(root, FitsDecoder(spec.hdu), expected)
    return FileReader(root, ImageDecoder(bands), expected)


def open_survey(
    spec: SurveySpec, bands: int | None = None, shape: tuple[int, int] | None = None
) -> Survey:
    """Open a survey: read its catalogue and open its reader; parameters as in `open_reader`.

    Raises
    ------
    RefusedError
        If folder or catalogue can't be used.
    """
    return Survey(spec, read_catalogue(spec), open_reader(spec, bands, shape))


@dataclass(frozen=True)
class Snapshot:
    """What a survey was at some time."""

    digest: str
    """SHA-256 that tells whether the survey changed: over the catalogue's content, paths included,
    and size and time of modification of every file that it names; of a simulated survey, over the
    manifest of its run."""
    missing_files: int
    """How many objects name a file that is not there."""


@dataclass(frozen=True)
class Survey:
    """A catalogue and the reader of its cutouts."""

    spec: SurveySpec
    catalogue: Catalogue
    reader: Reader

    def read(self, rows: Sequence[int] | Rows | Catalogue) -> list[Cutout | ReadFailure]:
        """Read rows of the catalogue, given by number or as a part of it, in their order."""
        if not isinstance(rows, Catalogue):
            rows = self.catalogue.take(rows)
        return self.reader.read(rows)

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """Return bands, height and width of the first object that can be read.

        Raises
        ------
        RefusedError
            If none of the first thousand can.
        """
        tried = min(len(self.catalogue), _PROBED)
        first_failure = None
        for row in range(tried):
            answer = self.reader.read(self.catalogue.slice(row, row + 1))[0]
            if isinstance(answer, Cutout):
                bands, height, width = answer.pixels.shape
                return bands, height, width
            first_failure = first_failure or answer
        reason = first_failure.reason if first_failure else "there is none"
        hint = self._hint(first_failure) if first_failure else ""
        raise RefusedError(
            f"none of the first {tried} objects can be read; the first: {reason}{hint}"
        )

    def _hint(self, failure: ReadFailure) -> str:
        """Say which setting makes all objects unreadable at once, where that can be told."""
        if failure.code == "wrong_bands":
            return "; or is it preprocess.mean? It has one value per expected band"
        if failure.code != "missing_file":
            return ""
        path = self.catalogue.slice(0, 1).paths[0]
        beside = os.path.dirname(os.path.abspath(self.spec.catalogue or self.spec.path))
        if path and os.path.exists(os.path.join(beside, path)):
            return f"; the catalogue's paths start at {beside}: set survey.path to that"
        return f"; paths start at survey.path, {survey_folder(self.spec)}"

    def digest(self) -> str:
        """Return the digest of `snapshot`."""
        return self.snapshot().digest

    def snapshot(self) -> Snapshot:
        """Look at the catalogue and its files as they are now, without reading pixels."""
        root = survey_folder(self.spec)
        digest = hashlib.sha256(f"catalogue {self.catalogue.digest()}\n".encode())
        if self.spec.format == "simulated":
            digest.update(_manifest(root))
            return Snapshot(digest.hexdigest(), 0)
        missing = 0
        with ThreadPoolExecutor(_STAT_THREADS) as threads:
            for start in range(0, len(self.catalogue), _STAT_ROWS):
                paths = self.catalogue.slice(start, start + _STAT_ROWS).paths
                places = [os.path.join(root, path) for path in paths]
                described = list(threads.map(_size_and_time, places))
                missing += described.count(_MISSING)
                digest.update("\n".join(described).encode())
        return Snapshot(digest.hexdigest(), missing)


def _size_and_time(path: str) -> str:
    try:
        info = os.stat(path)
    except OSError:
        return _MISSING
    return f"{info.st_size} {info.st_mtime_ns}"


def _manifest(root: str) -> bytes:
    path = os.path.join(root, "manifest.json")
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise RefusedError(
            f"'{path}' does not exist: the simulation has not finished; run it to its end first"
        ) from None
