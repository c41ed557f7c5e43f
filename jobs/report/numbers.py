"""The numbers per object that methods leave in the store, told from the arrays' attributes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..maps.contents import Array, dimensions, method_groups
from .facts import RunFacts
from .feature_figures import layer_arrays
from .statistics import Estimate


@dataclass(frozen=True)
class Measured:
    """One number per object of a method, over the objects of a run."""

    method: str
    long_name: str
    units: str
    convention: str
    objects: int
    """Objects that have it."""
    mean: Estimate
    percentiles: tuple[float, float, float]
    """The 5th, 50th and 95th."""


def measured(facts: RunFacts) -> list[Measured]:
    """Describe the arrays with one number per object, of targets the first one's."""
    found = []
    for method, name, array in _arrays(facts):
        dims = dimensions(array)
        if dims not in (("object",), ("object", "target")) or array.dtype.kind != "f":
            continue
        more = (0,) if "target" in dims else ()
        path = f"{method}/{name}"
        parts = [facts.source.read(path, rows, *more) for rows in facts.spans]
        values = np.concatenate(parts).astype(np.float64)
        values = values[np.isfinite(values)]
        if not values.size:
            continue
        spread = float(values.std(ddof=1)) if values.size > 1 else float("nan")
        low, middle, high = (float(p) for p in np.percentile(values, (5, 50, 95)))
        found.append(
            Measured(
                method=method,
                long_name=str(array.attrs.get("long_name", name.replace("_", " "))),
                units=str(array.attrs.get("units", "1")),
                convention=str(array.attrs.get("convention", "")),
                objects=int(values.size),
                mean=Estimate(float(values.mean()), spread / float(np.sqrt(values.size))),
                percentiles=(low, middle, high),
            )
        )
    return found


def other_arrays(facts: RunFacts) -> list[tuple[str, tuple[str, ...], str]]:
    """List the arrays per object that the page has no picture of: path, dimensions, long name."""
    shown = {entry.path for entry in facts.source.maps.values()}
    shown |= {entry.path for entry in facts.source.class_maps.values()}
    shown |= set(layer_arrays(facts.source))
    others = []
    for method, name, array in _arrays(facts):
        dims, path = dimensions(array), f"{method}/{name}"
        number = dims in (("object",), ("object", "target")) and array.dtype.kind == "f"
        if dims[:1] == ("object",) and not number and "judged" not in dims and path not in shown:
            others.append((path, dims, str(array.attrs.get("long_name", ""))))
    return others


def _arrays(facts: RunFacts) -> list[tuple[str, str, Array]]:
    return [
        (method, name, array)
        for method, group in method_groups(facts.source.root)
        for name, array in sorted(group.arrays())
    ]
