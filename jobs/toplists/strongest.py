"""The strongest responses of a whole survey, exactly, in memory that does not grow with it.

Responses are ordered by value, the largest first, and equal ones by object, the first first. That
order is total, so any cut of the survey and any order of merging give the same objects.

Shape suffixes: N objects, F filters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..maps.aggregate import Progress, reduce_blocks

_BLOCK_VALUES = 1 << 22
"""Responses that are looked at together."""


@dataclass(frozen=True)
class Strongest:
    """The k strongest responses of each filter, the strongest first."""

    value: NDArray[np.float32]
    """(F, k); -inf where fewer than k objects have a response."""
    object: NDArray[np.int64]
    """Row of the catalogue, (F, k); -1 where there is none."""


def find_strongest(
    spans: Sequence[slice],
    read: Callable[[slice], NDArray[np.float32]],
    filters: int,
    k: int,
    on_progress: Progress | None = None,
) -> Strongest:
    """Find the strongest responses, in blocks on Dask's threads.

    Parameters
    ----------
    spans : cut of the survey
    read : responses (N, F) of some objects, NaN for those without
    filters, k : number of filters, and of responses to keep for each
    on_progress : told after each span
    """
    step = max(1, _BLOCK_VALUES // filters)

    def of_span(span: slice) -> Strongest:
        best = _nothing(filters, k)
        for start in range(span.start, span.stop, step):
            rows = slice(start, min(start + step, span.stop))
            best = _extended(best, read(rows), start)
        return best

    return reduce_blocks(spans, of_span, merge, on_progress)


def merge(parts: Sequence[Strongest]) -> Strongest:
    """Return the strongest of several parts of a survey, in any order."""
    filters, k = parts[0].value.shape
    number = np.broadcast_to(np.arange(filters)[:, None], (filters, k))
    return _ranked(
        filters,
        k,
        np.concatenate([number.ravel() for _ in parts]),
        np.concatenate([part.value.ravel() for part in parts]),
        np.concatenate([part.object.ravel() for part in parts]),
    )


def _extended(best: Strongest, values_NF: NDArray[np.float32], start: int) -> Strongest:
    """Take in the objects from row ``start`` on, which follow all that were seen before."""
    filters, k = best.value.shape
    enters = values_NF > best.value[:, -1]  # an equal one would come after; NaN is not larger
    if len(values_NF) > k:
        # Of a block, no more than its own k strongest, and what equals the last of them.
        kth_F = -np.partition(-values_NF, k - 1, axis=0)[k - 1]
        enters &= values_NF >= np.where(np.isnan(kth_F), -np.inf, kth_F)
    rows, numbers = np.nonzero(enters)
    return merge([best, _ranked(filters, k, numbers, values_NF[rows, numbers], rows + start)])


def _ranked(
    filters: int,
    k: int,
    number: NDArray[np.int64],
    value: NDArray[np.float32],
    row: NDArray[np.int64],
) -> Strongest:
    """Order responses within their filters, and keep the first k of each."""
    # What is missing must not come before an object, whatever its value.
    order = np.lexsort((np.where(row < 0, np.iinfo(np.int64).max, row), -value, number))
    number, value, row = number[order], value[order], row[order]
    rank = np.arange(len(number)) - np.searchsorted(number, number)
    kept = rank < k
    ranked = _nothing(filters, k)
    place: Any = (number[kept], rank[kept])
    ranked.value[place], ranked.object[place] = value[kept], row[kept]
    return ranked


def _nothing(filters: int, k: int) -> Strongest:
    value = np.full((filters, k), -np.inf, dtype=np.float32)
    return Strongest(value, np.full((filters, k), -1, dtype=np.int64))
