"""Numbers that describe one attribution map, comparable over a survey.

Shape suffixes: N objects, T targets, H height, W width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arrays import ArraySpec

_DESCRIBED = {
    "total": ("sum of the map", "logit", "sum(A), signed"),
    "gini": (
        "concentration",
        "1",
        "Gini coefficient of |A| over pixels (Lotz 2004): 0 even, 1 in one pixel",
    ),
    "centroid_offset": (
        "distance of the centroid from the image centre",
        "pixel",
        "first moment of |A|",
    ),
    "half_light_radius": (
        "radius that holds half of the map",
        "pixel",
        "radius about the image centre that holds half of sum(|A|)",
    ),
    "asymmetry": (
        "change under rotation by 180 degrees",
        "1",
        "sum|A - A180| / (2 sum|A|) (Conselice 2003, no background term): 0 to 1",
    ),
}


def summary_arrays(targets: int) -> tuple[ArraySpec, ...]:
    """Describe the arrays that `summarise` returns."""
    return tuple(
        ArraySpec(name, ("target",), (targets,), long_name, units=units, convention=convention)
        for name, (long_name, units, convention) in _DESCRIBED.items()
    )


def summarise(map_NTHW: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
    """Describe maps by five numbers each.

    Parameters
    ----------
    map_NTHW : attribution per pixel; a map of NaN gives NaN, a map of zeros has no shape and gives
        0 for everything

    Returns
    -------
    arrays (N, T), named and defined as in `summary_arrays`
    """
    values = map_NTHW.astype(np.float64)
    weight = np.abs(values)
    mass_NT = weight.sum(axis=(2, 3))
    h, w = values.shape[2:]
    y, x = np.mgrid[:h, :w] - np.array([(h - 1) / 2, (w - 1) / 2])[:, None, None]
    return {
        "total": values.sum(axis=(2, 3)),
        "gini": _gini(weight),
        "centroid_offset": np.hypot(
            _ratio((weight * y).sum(axis=(2, 3)), mass_NT),
            _ratio((weight * x).sum(axis=(2, 3)), mass_NT),
        ),
        "half_light_radius": _half_light_radius(weight, np.hypot(y, x)),
        "asymmetry": _ratio(
            np.abs(values - values[:, :, ::-1, ::-1]).sum(axis=(2, 3)), 2 * mass_NT
        ),
    }


def _ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(top, bottom, out=np.where(np.isnan(bottom), np.nan, 0.0), where=bottom > 0)


def _gini(weight_NTHW: NDArray[np.float64]) -> NDArray[np.float64]:
    ordered = np.sort(weight_NTHW.reshape(*weight_NTHW.shape[:2], -1), axis=-1)
    n = ordered.shape[-1]
    rank = 2 * np.arange(1, n + 1) - n - 1
    return _ratio((ordered * rank).sum(axis=-1), ordered.sum(axis=-1) * max(n - 1, 1))


def _half_light_radius(
    weight_NTHW: NDArray[np.float64], radius_HW: NDArray[np.float64]
) -> NDArray[np.float64]:
    order = np.argsort(radius_HW, axis=None, kind="stable")
    grown = np.cumsum(weight_NTHW.reshape(*weight_NTHW.shape[:2], -1)[..., order], axis=-1)
    mass = grown[..., -1]
    reached = (grown < mass[..., None] / 2).sum(axis=-1)
    radius = radius_HW.ravel()[order][np.minimum(reached, radius_HW.size - 1)]
    return np.where(mass > 0, radius, np.where(np.isnan(mass), np.nan, 0.0))
