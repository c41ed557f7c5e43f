"""The objects of a survey that a network can learn from."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cluster.errors import StorageError
from cluster.unit import ObjectFailure
from training.examples import SelectedExamples
from training.neighbours import sky_groups
from training.splits import Split, folds, nested_subsets, split

from ..errors import RefusedError
from ..specs.survey import SurveySpec
from ..specs.training import TrainingJob
from ..survey import Cutout, Preprocess, Survey, open_reader
from .targets import listed_ids, strata, targets_of

HELD_BYTES = 2 << 30
"""Images of more bytes are kept in a file while a network learns from them."""
_BLOCK = 512
"""Objects whose cutouts are held beside the network's inputs while they are read."""


@dataclass(frozen=True)
class Parts:
    """What a fit learns from, stops by, and is judged by."""

    train: SelectedExamples
    validation: SelectedExamples
    test: SelectedExamples


@dataclass(frozen=True)
class Labelled:
    """Objects that were read."""

    ids: list[str]
    images: NDArray[np.float32]
    """(N, C, H, W), as the network sees them; in a mapped file if they are many."""
    labels: NDArray[Any]
    """Positions among the job's classes (N,), or votes or numbers (N, K)."""
    places: NDArray[np.float64]
    """Right ascension and declination (N, 2), degrees; NaN where unknown."""
    failures: list[ObjectFailure]
    """Those that are left out."""

    def parts(self, job: TrainingJob) -> Parts:
        """Split the objects.

        Raises
        ------
        RefusedError
            If a network can't learn from what there is.
        """
        found = self._split(job)
        train = found.train
        if job.training_objects is not None:
            if job.training_objects > len(train):
                raise RefusedError(
                    f"training_objects: {job.training_objects} of {len(train)} training objects; "
                    "ask for fewer"
                )
            ids, labels = [self.ids[row] for row in train], strata(job, self.labels[train])
            (some,) = nested_subsets(ids, labels, [job.training_objects], job.split.seed)
            train = train[some]
        parts = Parts(*(self.some(part) for part in (train, found.validation, found.test)))
        try:
            parts.train.check("training", job.fit.batch_size)
            parts.validation.check("validation", 1)
        except ValueError as error:
            raise RefusedError(f"{error} ({len(self.failures)} objects were left out)") from error
        return parts

    def some(self, rows: NDArray[np.int64] | slice = slice(None)) -> SelectedExamples:
        """Return some objects; by default all."""
        chosen = np.arange(len(self.ids))[rows]
        return SelectedExamples(self.images, chosen, self.labels[chosen])

    def _split(self, job: TrainingJob) -> Split:
        spec = job.split
        groups = self._groups(spec.separation) if spec.separation else None
        chosen = listed_ids(job.also_train)
        kept = np.array([name in chosen for name in self.ids], dtype=np.bool_)
        if groups is not None:
            # What is close to a training object must not judge.
            kept = np.isin(groups, groups[kept])
        rest = np.flatnonzero(~kept)
        ids, labels = [self.ids[row] for row in rest], strata(job, self.labels[rest])
        near = None if groups is None else groups[rest]
        if spec.folds is not None:
            found = folds(ids, labels, spec.folds, spec.seed, near)[spec.fold]
        else:
            found = split(ids, labels, spec.seed, spec.shares, groups=near)
        train = np.sort(np.concatenate([np.flatnonzero(kept), rest[found.train]]))
        return Split(train, rest[found.validation], rest[found.test])

    def _groups(self, separation: float) -> NDArray[np.int64]:
        """Return the group of each object; those without a place are alone."""
        groups = np.arange(len(self.ids))
        known = np.flatnonzero(np.isfinite(self.places).all(axis=1))
        ra, dec = self.places[known].T
        groups[known] = known[sky_groups(ra, dec, separation)]
        return groups


def check_counts(job: TrainingJob, count: int) -> None:
    """Refuse a number of objects that leaves too little to learn from.

    Raises
    ------
    RefusedError
        With the numbers.
    """
    train = count if job.also_train else count * job.split.shares[0]
    if job.training_objects is not None:
        if job.training_objects > train + 1:
            raise RefusedError(
                f"training_objects: {job.training_objects} of {train:.0f} training objects; ask "
                "for fewer"
            )
        train = job.training_objects
    if train < job.fit.batch_size:
        raise RefusedError(
            f"training set has {train:.0f} images, it needs {job.fit.batch_size} or more; "
            "add objects or lower batch_size"
        )


def read_labelled(
    job: TrainingJob, spec: SurveySpec, survey: Survey, rows: Sequence[int]
) -> Labelled:
    """Read objects of a survey; those that can't be used are left out, with the reason.

    Parameters
    ----------
    job
        A fit.
    spec, survey
        Its own survey, or one that judges it.
    rows
        The objects, of `targets.target_rows`.
    """
    bands, *shape = survey.image_shape
    resized = job.preprocess.size != "native"
    reader = open_reader(spec, bands, None if resized else (shape[0], shape[1]))
    preprocess = Preprocess(job.preprocess, bands)
    refused = {failure.index: failure for failure in survey.catalogue.failures()}
    failures = [refused[row] for row in rows if row in refused]
    good = [row for row in rows if row not in refused]
    images = _ImageStack(len(good), (bands, *preprocess.output_shape((shape[0], shape[1]))))
    ids: list[str] = []
    used: list[int] = []
    for start in range(0, len(good), _BLOCK):
        numbers = good[start : start + _BLOCK]
        block = survey.catalogue.take(numbers)
        for row, name, answer in zip(numbers, block.ids, reader.read(block), strict=True):
            if isinstance(answer, Cutout):
                images.add(preprocess.apply(answer.pixels))
                ids.append(name)
                used.append(row)
            else:
                failures.append(answer.of(row, name))
    failures.sort(key=lambda failure: failure.index)
    learnt = survey.catalogue.take(used)
    places = np.stack([learnt.table[name].to_numpy() for name in ("ra", "dec")], axis=1)
    return Labelled(ids, images.whole(), targets_of(job, learnt), places, failures)


class _ImageStack:
    """Images one upon the other: in memory or, if they are many, in a file without a name.

    The file is in the node's folder for temporary files, and goes with the process. The operating
    system keeps in memory of it what there is room for.
    """

    def __init__(self, most: int, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._number = 0
        self._held = np.empty((0, *shape), np.float32)
        self._file: IO[bytes] | None = None
        if 4 * most * math.prod(shape) > HELD_BYTES:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - mapped as long as it is used
        else:
            self._held = np.empty((most, *shape), np.float32)

    def add(self, image: NDArray[np.float32]) -> None:
        """Put an image on top.

        Raises
        ------
        StorageError
            If the file can't be written.
        """
        if self._file is None:
            self._held[self._number] = image
        else:
            with _kept():
                self._file.write(np.ascontiguousarray(image, np.float32).data)
        self._number += 1

    def whole(self) -> NDArray[np.float32]:
        """Return all images (N, C, H, W).

        Raises
        ------
        StorageError
            As of `add`.
        """
        if self._file is None or not self._number:
            return self._held[: self._number]
        with _kept():
            self._file.flush()
        return np.memmap(self._file, np.float32, mode="r", shape=(self._number, *self._shape))


@contextmanager
def _kept() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{tempfile.gettempdir()}: images to learn from can't be kept there "
            f"({error.strerror or error}); free space, or set TMPDIR to a larger disk"
        ) from error
