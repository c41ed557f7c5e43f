"""The objects of a survey that a network can learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.unit import ObjectFailure
from training.fit import Examples
from training.neighbours import sky_groups
from training.splits import Split, folds, nested_subsets, split

from ..errors import RefusedError
from ..specs.survey import SurveySpec
from ..specs.training import TrainingJob
from ..survey import Cutout, Preprocess, Survey, open_reader
from .targets import strata, targets_of

_BLOCK = 512
"""Objects whose cutouts are held beside the network's inputs while they are read."""


@dataclass(frozen=True)
class Parts:
    """What a fit learns from, stops by, and is judged by."""

    train: Examples
    validation: Examples
    test: Examples


@dataclass(frozen=True)
class Labelled:
    """Objects that were read."""

    ids: list[str]
    images: NDArray[np.float32]
    """(N, C, H, W), as the network sees them."""
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

    def some(self, rows: NDArray[np.int64] | slice = slice(None)) -> Examples:
        """Return some objects; by default all."""
        return Examples(self.images[rows], self.labels[rows])

    def _split(self, job: TrainingJob) -> Split:
        ids, labels, spec = self.ids, strata(job, self.labels), job.split
        groups = self._groups(spec.separation) if spec.separation else None
        if spec.folds is not None:
            return folds(ids, labels, spec.folds, spec.seed, groups)[spec.fold]
        return split(ids, labels, spec.seed, spec.shares, groups=groups)

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
    train = count * job.split.shares[0]
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
    images = np.empty((len(good), bands, *preprocess.output_shape((shape[0], shape[1]))), "f4")
    ids: list[str] = []
    used: list[int] = []
    for start in range(0, len(good), _BLOCK):
        numbers = good[start : start + _BLOCK]
        block = survey.catalogue.take(numbers)
        for row, name, answer in zip(numbers, block.ids, reader.read(block), strict=True):
            if isinstance(answer, Cutout):
                images[len(ids)] = preprocess.apply(answer.pixels)
                ids.append(name)
                used.append(row)
            else:
                failures.append(answer.of(row, name))
    failures.sort(key=lambda failure: failure.index)
    learnt = survey.catalogue.take(used)
    places = np.stack([learnt.table[name].to_numpy() for name in ("ra", "dec")], axis=1)
    return Labelled(ids, images[: len(ids)], targets_of(job, learnt), places, failures)
