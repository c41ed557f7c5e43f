"""A survey: its catalogue, and the cutouts behind it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.errors import RefusedError
from jobs.specs.survey import SurveySpec

from .catalogue import CONTENT, STAMP, Catalogue, Rows
from .describe import read_catalogue
from .files import FileReader
from .fits import FitsDecoder
from .hdf5 import Hdf5Decoder
from .images import ImageDecoder
from .npy import NpyDecoder
from .parquet import ParquetRows
from .places import container_files, open_rows, survey_place
from .reader import Cutout, Expected, Pixels, Reader, ReadFailure, file_stamp
from .rows import RowReader

_PROBED = 1000
"""How many leading objects may be unreadable before a survey is refused."""
_BLOCK = 512
"""Objects that are held at once while their content is hashed."""
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
        If the survey isn't there, or holds no images that can be read row by row.
    """
    root = survey_place(spec)
    expected = Expected(bands, shape, spec.nan)
    if (source := open_rows(spec, bands)) is not None:
        return RowReader(source, expected, spec.bands == "last")
    return FileReader(root, _decoder(spec, bands), expected)


def _decoder(spec: SurveySpec, bands: int | None) -> Callable[[bytes], Pixels]:
    last = spec.bands == "last"
    if spec.format == "fits":
        return FitsDecoder(spec.hdu, spec.values)
    if spec.format == "npy":
        return NpyDecoder(last, spec.values)
    if spec.format == "hdf5":
        return Hdf5Decoder(spec.array, last, spec.values)
    return ImageDecoder(bands)


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
    and size and time of modification of every file that it names or that holds its rows; of a
    simulated survey, over the manifest of its run; and over the content where that is verified."""
    missing_files: int
    """How many objects name a file that is not there."""
    stamps: npt.NDArray[np.int64] | None = None
    """State of each object's file, as of `reader.file_stamp`; 0 where there is none."""
    content: pa.Array | None = None
    """Hash of each object's content, or the code of what makes it unreadable."""


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
    def _first_readable(self) -> tuple[int, Cutout]:
        tried = min(len(self.catalogue), _PROBED)
        first_failure = None
        for row in range(tried):
            answer = self.reader.read(self.catalogue.slice(row, row + 1))[0]
            if isinstance(answer, Cutout):
                return row, answer
            first_failure = first_failure or answer
        reason = first_failure.reason if first_failure else "there is none"
        hint = self._hint(first_failure) if first_failure else ""
        raise RefusedError(
            f"none of the first {tried} objects can be read; the first: {reason}{hint}"
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return bands, height and width of the first object that can be read.

        Raises
        ------
        RefusedError
            If none of the first thousand can.
        """
        bands, height, width = self._first_readable[1].pixels.shape
        return bands, height, width

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
        return f"; paths start at survey.path, {survey_place(self.spec)}"

    def digest(self) -> str:
        """Return the digest of `snapshot`."""
        return self.snapshot().digest

    def resolved(self) -> SurveySpec:
        """Return the spec with the type of the values that the first readable object has.

        Raises
        ------
        RefusedError
            If none of the first thousand objects can be read.
        """
        spec = self.spec
        if spec.values != "auto" or spec.by_row or spec.format in ("images", "simulated"):
            return spec
        first, (bands, *shape) = self._first_readable[0], self.image_shape
        for values in ("float", "integer"):
            chosen = spec.model_copy(update={"values": values})
            reader = open_reader(chosen, bands, (shape[0], shape[1]))
            answer = reader.read(self.catalogue.slice(first, first + 1))[0]
            if isinstance(answer, Cutout):
                break
        return chosen

    def planned(self, snapshot: Snapshot) -> Catalogue:
        """Return the catalogue with what tells later whether an object's content has changed."""
        catalogue = self.catalogue
        if snapshot.stamps is not None:
            catalogue = catalogue.with_column(STAMP, pa.array(snapshot.stamps))
        if snapshot.content is not None:
            catalogue = catalogue.with_column(CONTENT, snapshot.content)
        return catalogue

    def snapshot(self) -> Snapshot:
        """Look at the catalogue and its files as they are now.

        Pixels are read only where the spec says ``verify: content``.
        """
        digest = hashlib.sha256(f"catalogue {self.catalogue.digest()}\n".encode())
        missing, stamps = 0, None
        if self.spec.format == "simulated":
            digest.update(_manifest(survey_place(self.spec)))
        elif self.spec.by_row:
            stamps = self._row_stamps()
            for path in container_files(self.spec):
                digest.update(f"{_stamp(path)}\n".encode())
        else:
            stamps = self._file_stamps()
            missing = int((stamps == 0).sum())
            digest.update(stamps.astype("<i8").tobytes())
        content = None
        if self.spec.verify == "content":
            content = pa.array(self._content(), pa.string())
            digest.update("\n".join(content.to_pylist()).encode())
        return Snapshot(digest.hexdigest(), missing, stamps, content)

    def _file_stamps(self) -> npt.NDArray[np.int64]:
        root = survey_place(self.spec)
        stamps = np.zeros(len(self.catalogue), dtype=np.int64)
        with ThreadPoolExecutor(_STAT_THREADS) as threads:
            for start in range(0, len(stamps), _STAT_ROWS):
                paths = self.catalogue.slice(start, start + _STAT_ROWS).paths
                places = [os.path.join(root, path) for path in paths]
                stamps[start : start + len(places)] = list(threads.map(_stamp, places))
        return stamps

    def _row_stamps(self) -> npt.NDArray[np.int64] | None:
        assert isinstance(self.reader, RowReader)
        source = self.reader.source
        if isinstance(source, ParquetRows):
            return source.stamps()
        stamp = source.stamp(0)
        return np.full(len(self.catalogue), stamp, dtype=np.int64) if stamp else None

    def _content(self) -> Iterator[str]:
        """Give the hash of each object, or the code of what makes it unreadable."""
        for start in range(0, len(self.catalogue), _BLOCK):
            for answer in self.reader.read(self.catalogue.slice(start, start + _BLOCK)):
                yield answer.sha256 if isinstance(answer, Cutout) else answer.code


def _stamp(path: str) -> int:
    try:
        return file_stamp(os.stat(path))
    except (OSError, ValueError):
        return 0


def _manifest(root: str) -> bytes:
    path = os.path.join(root, "manifest.json")
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise RefusedError(
            f"'{path}' does not exist: the simulation has not finished; run it to its end first"
        ) from None
