"""What networks learn to say: a class for each object, votes for answers, or numbers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..errors import RefusedError
from ..specs.training import FitsJob
from ..survey.catalogue import Catalogue
from ..survey.ids import read_ids
from ..survey.text import did_you_mean

_BINS = 10
"""Parts of equal size of a number's range, which a split shares out like classes."""


def target_rows(job: FitsJob, catalogue: Catalogue) -> list[int]:
    """Return the rows that a network can learn from.

    With classes, those labelled with one of them, each of which some object must have; with target
    columns, those where all are numbers, and of votes some are given.

    Raises
    ------
    RefusedError
        If a class or a column is not there.
    """
    if not job.target_columns:
        return _labelled_rows(job.classes, catalogue)
    targets = _columns(job.target_columns, catalogue)
    good = np.isfinite(targets).all(axis=1)
    if job.are_votes:
        good &= (targets >= 0).all(axis=1) & (targets.sum(axis=1) > 0)
    if not good.any():
        raise RefusedError(
            f"target_columns: no object of {catalogue.source} has "
            f"{'votes' if job.are_votes else 'numbers'} in {', '.join(job.target_columns)}"
        )
    return np.flatnonzero(good).tolist()


def learnable_rows(job: FitsJob, catalogue: Catalogue) -> list[int]:
    """Return those of `target_rows` that the job uses of its survey.

    Raises
    ------
    RefusedError
        If a class or a column is not there, or a list of objects can't be read or has none of them.
    """
    rows, ids = target_rows(job, catalogue), catalogue.ids
    wanted: set[str] = set()
    for field, paths in (("only", job.only), ("also_train", job.also_train)):
        listed = listed_ids(paths)
        if paths and not any(ids[row] in listed for row in rows):
            raise RefusedError(
                f"{field}: {', '.join(paths)} lists {len(listed)} objects, none of which "
                f"{catalogue.source} has with a label; give the ids of its catalogue"
            )
        wanted |= listed
    return [row for row in rows if ids[row] in wanted] if job.only else rows


def listed_ids(paths: Sequence[str]) -> set[str]:
    """Return the ids that are in one of some CSV files.

    Raises
    ------
    RefusedError
        If one can't be read.
    """
    return {name for path in paths for name in read_ids(Path(path))}


def targets_of(job: FitsJob, catalogue: Catalogue) -> NDArray[Any]:
    """Return positions among the classes (N,), or votes or numbers (N, K), of `target_rows`."""
    if job.target_columns:
        return _columns(job.target_columns, catalogue)
    position = {name: index for index, name in enumerate(job.classes)}
    return np.array([position[label] for label in catalogue.labels], dtype=np.int64)


def strata(job: FitsJob, targets: NDArray[Any]) -> list[int]:
    """Return what a split shares out evenly: classes, most voted answers, or bins of a number."""
    if not job.target_columns:
        return [int(label) for label in targets]
    if job.are_votes:
        first = job.fit.questions[0] if job.fit.questions else targets.shape[1]
        return [int(answer) for answer in targets[:, :first].argmax(axis=1)]
    edges = np.quantile(targets[:, 0], np.linspace(0, 1, _BINS + 1)[1:-1])
    return [int(number) for number in np.searchsorted(edges, targets[:, 0], side="right")]


def count_targets(job: FitsJob, catalogue: Catalogue) -> dict[str, int]:
    """Count the objects of each class, or all where there are none; of `target_rows`."""
    if job.target_columns:
        return {"objects": len(catalogue)}
    labels = catalogue.labels
    return {name: labels.count(name) for name in job.classes}


def _columns(names: Sequence[str], catalogue: Catalogue) -> NDArray[np.float64]:
    known = catalogue.table.column_names
    found = []
    for name in names:
        # In a catalogue, names are such that files may have them.
        column = name if name in known else re.sub(r"[^\w.+-]", "_", name)
        if column not in known:
            hint = did_you_mean(name, known) or f"; there are {', '.join(known[:12])}"
            raise RefusedError(f"target_columns: {catalogue.source} has no {name!r}{hint}")
        kind = catalogue.table.schema.field(column).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise RefusedError(
                f"target_columns: {name} of {catalogue.source} holds {kind}, no numbers; "
                "name other columns"
            )
        found.append(catalogue.table[column].to_numpy().astype(np.float64))
    return np.stack(found, axis=1)


def _labelled_rows(classes: Sequence[str], catalogue: Catalogue) -> list[int]:
    labels = catalogue.labels
    known = set(labels) - {""}
    for name in classes:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {_some(known)}"
            raise RefusedError(f"classes: no object of {catalogue.source} is a {name!r}; {hint}")
    wanted = set(classes)
    return [row for row, label in enumerate(labels) if label in wanted]


def _some(labels: set[str], shown: int = 8) -> str:
    names = sorted(labels)
    return ", ".join(names[:shown] + ["..."] * (len(names) > shown)) or "no labels at all"
