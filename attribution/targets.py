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
        If a request is unknown or a class index is out of range.
    """
    names: list[str] = []
    for request in requests:
        if request == "all":
            names.extend(classes)
        elif request in ("predicted", "label"):
            names.append(str(request))
        elif isinstance(request, str):
            if request not in classes:
                raise ValueError(
                    f"target {request!r} is neither predicted, label nor all, nor one of the "
                    f"classes {', '.join(classes)}"
                )
            names.append(request)
        elif 0 <= request < len(classes):
            names.append(classes[request])
        else:
            raise ValueError(
                f"target {request} is out of range: the network has classes 0 to {len(classes) - 1}"
            )
    return names


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
    columns = {"predicted": predicted_N, "label": labels_N}
    position = {name: index for index, name in enumerate(classes)}
    return np.stack(
        [
            columns[name]
            if name in columns
            else np.full(len(predicted_N), position[name], dtype=np.int64)
            for name in target_names(requests, classes)
        ],
        axis=1,
    )
