"""Which classes an attribution explains.

Shape suffixes: N objects, T targets, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .method import Targets

TargetRequest = str | int
"""``predicted``, ``label``, ``all``, or a class index."""

NO_TARGET = -1
"""Stands where an object has no such target, as one without a label; its results are NaN."""


def target_names(requests: Sequence[TargetRequest], classes: Sequence[str]) -> list[str]:
    """Name the target axis: a request's own name, a class's name for an index or ``all``.

    Raises
    ------
    ValueError
        If there is no request, one is unknown, or a class index is out of range.
    """
    return [
        column if isinstance(column, str) else classes[column]
        for column in _columns(requests, classes)
    ]


def _columns(requests: Sequence[TargetRequest], classes: Sequence[str]) -> list[str | int]:
    """List what each column of the target axis holds: a role, or one class throughout."""
    if not requests:
        raise ValueError("targets is empty; name predicted, label, all or a class")
    columns: list[str | int] = []
    for request in requests:
        if request == "all":
            columns.extend(range(len(classes)))
        elif request in ("predicted", "label"):
            columns.append(request)
        elif isinstance(request, str):
            if request not in classes:
                raise ValueError(
                    f"target {request!r} is neither predicted, label nor all, nor one of the "
                    f"classes {', '.join(classes)}"
                )
            columns.append(classes.index(request))
        elif 0 <= request < len(classes):
            columns.append(request)
        else:
            raise ValueError(
                f"target {request} is out of range: the network has classes 0 to {len(classes) - 1}"
            )
    return columns


def resolve_targets(
    requests: Sequence[TargetRequest],
    classes: Sequence[str],
    predicted_N: NDArray[np.int64],
    labels_N: NDArray[np.int64],
) -> Targets:
    """Turn requests into class indices, one column per name of `target_names`.

    Parameters
    ----------
    requests : what to explain
    classes : class names in the order of the logits
    predicted_N : the most probable class of each object
    labels_N : the catalogue's class of each object, -1 where it has none

    Returns
    -------
    int64 (N, T)
    """
    roles = {"predicted": predicted_N, "label": labels_N}
    return np.stack(
        [
            roles[column]
            if isinstance(column, str)
            else np.full(len(predicted_N), column, dtype=np.int64)
            for column in _columns(requests, classes)
        ],
        axis=1,
    )
