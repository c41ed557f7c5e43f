"""Where activations lie on the page: similar ones near each other (McInnes, Healy & Melville 2018).

Shape suffixes: N activations, F filters.
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RefusedError

Floats32 = NDArray[np.float32]
NEIGHBOURS, MIN_DIST = 20, 0.01
"""As published (Carter et al. 2019), with the cosine as the measure of likeness."""
_PERCENTILE, _MARGIN = 1.0, 0.1
"""What lies beyond these percentiles and a margin, relative to their distance, is no part of the
square: it is put at its edge. Also as published."""
_TOGETHER = 16384
"""Activations that are placed together: beyond 10 000, the library takes a third of the steps."""
LIBRARIES = ("umap-learn", "pynndescent", "numba")
"""What coordinates depend on besides the activations."""


def require_umap() -> None:
    """Refuse to go on without the optional library.

    Raises
    ------
    RefusedError
        With the command that installs it.
    """
    if importlib.util.find_spec("umap") is None:
        raise RefusedError(
            "the atlas is laid out with umap-learn, which is not installed; install it: "
            'pip install "occulta[atlas]"'
        )


@dataclass(frozen=True, eq=False)
class Layout:
    """A layout of some activations, in which others can be placed."""

    reducer: Any
    """The fitted umap.UMAP."""
    low: NDArray[np.float64]
    """What becomes 0 in the unit square, (2,)."""
    high: NDArray[np.float64]
    """What becomes 1, (2,)."""
    known: dict[bytes, int]
    """Numbers of the fitted activations, by their digest."""

    @classmethod
    def fit(cls, activations_NF: Floats32, seed: int) -> Layout:
        """Lay out some activations.

        The result depends on which activations there are, not on their order or how often each
        occurs, so equal ones have one place.

        Raises
        ------
        RefusedError
            If there are too few different ones.
        """
        distinct_NF = np.unique(_plain(activations_NF), axis=0)
        if len(distinct_NF) <= NEIGHBOURS:
            raise RefusedError(
                f"there are {len(distinct_NF)} different activations; a layout by {NEIGHBOURS} "
                f"neighbours needs {NEIGHBOURS + 1} or more: run the job on more objects"
            )
        with _quiet():
            from umap import UMAP  # noqa: PLC0415 - optional, and takes seconds

            reducer = UMAP(
                n_neighbors=NEIGHBOURS,
                min_dist=MIN_DIST,
                metric="cosine",
                random_state=seed % 2**32,
                transform_seed=seed % 2**32,
                n_jobs=1,
            ).fit(distinct_NF)
        low, high = _limits(reducer.embedding_.astype(np.float64))
        digests = _digests(distinct_NF)
        return cls(reducer, low, high, {digest: n for n, digest in enumerate(digests)})

    def place(self, activations_NF: Floats32) -> Floats32:
        """Return the x and y of activations in the unit square, (N, 2)."""
        plain_NF = _plain(activations_NF)
        number = [self.known.get(digest, -1) for digest in _digests(plain_NF)]
        number_N = np.array(number, dtype=np.int64)
        place_N2 = self._fitted[number_N].astype(np.float64)
        others = np.flatnonzero(number_N < 0)
        for start in range(0, len(others), _TOGETHER):
            some = others[start : start + _TOGETHER]
            with _quiet():
                place_N2[some] = self.reducer.transform(plain_NF[some])
        inside_N2 = np.clip((place_N2 - self.low) / (self.high - self.low), 0.0, 1.0)
        return inside_N2.astype(np.float32)

    @cached_property
    def _fitted(self) -> Floats32:
        return np.asarray(self.reducer.embedding_)

    @property
    def attributes(self) -> dict[str, Any]:
        """How the layout was made, as JSON values."""
        return {
            "layout": "UMAP (McInnes, Healy & Melville 2018)",
            "metric": "cosine",
            "n_neighbors": NEIGHBOURS,
            "min_dist": MIN_DIST,
            "seed": int(self.reducer.random_state),
            "fitted": len(self.known),
            "libraries": {name: version(name) for name in LIBRARIES},
        }


def _plain(activations_NF: Floats32) -> Floats32:
    """Make zeros the same bits, whatever their sign."""
    return np.ascontiguousarray(activations_NF, dtype=np.float32) + np.float32(0)


def _digests(activations_NF: Floats32) -> list[bytes]:
    return [hashlib.blake2b(row, digest_size=16).digest() for row in activations_NF]


def _limits(place_N2: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the square: the layout without its few outliers."""
    low, high = np.percentile(place_N2, [_PERCENTILE, 100 - _PERCENTILE], axis=0)
    margin = _MARGIN * (high - low)
    low, high = (
        np.maximum(low - margin, place_N2.min(axis=0)),
        np.minimum(high + margin, place_N2.max(axis=0)),
    )
    return low, np.where(high > low, high, low + 1.0)


@contextmanager
def _quiet() -> Iterator[None]:
    """Compute with one thread, and keep what the libraries warn of to ourselves.

    They warn of an absent Tensorflow, and of layouts in several pieces, which are none the worse.
    """
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 - comes with umap-learn

    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore")
        yield
