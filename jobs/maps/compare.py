"""Two runs on the same objects, such as of a network before and after it was tuned: what changed.

Array suffixes: n objects of a block, G groups, y and x pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cluster.place import Place

from ..errors import RefusedError
from .aggregate import Progress, reduce_blocks
from .contents import MapArray
from .objects import ObjectBlock, read_block
from .source import Origin, RunSource, open_source
from .stacks import read_native, to_pixels

Floats = NDArray[np.float64]

ALL = "all"
"""The group of all objects; the others are their labels."""
_PREFERRED = ("label", "predicted")
"""Targets whose maps are compared, the first that both runs have."""
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedStatistic:
    """What one number of the objects of a group became."""

    quantity: str
    group: str
    objects: int
    before: float
    """Mean; NaN for a number that describes the pair, such as a similarity."""
    after: float
    change: float
    """Mean of after less before, object by object; of a similarity its mean."""
    low: float
    """95 % interval of the change, by Student's t of the paired differences."""
    high: float
    p_value: float
    """That so much would change by chance: of accuracy McNemar's exact test (1947), of other
    numbers Wilcoxon's signed-rank test (1945); not corrected for the number of tests."""


@dataclass(frozen=True)
class ComparedMaps:
    """Mean maps of each group; each object's map is divided by its sum of absolute values."""

    name: str
    target: str
    """What is explained in both; empty if no class is."""
    number: NDArray[np.int64]
    """(G,) objects."""
    before: Floats
    """(G, y, x) mean share of the attribution."""
    after: Floats
    difference: Floats
    """(G, y, x) mean of after less before."""
    standard_error: Floats
    """(G, y, x) of the difference."""


@dataclass(frozen=True)
class Comparison:
    """Two runs, object by object and on average."""

    before: RunSource
    after: RunSource
    groups: tuple[str, ...]
    """All objects, then those of each label."""
    objects: Mapping[str, NDArray[Any]]
    """Columns of a table with a row for each object that both runs have, in the order of before."""
    maps: Mapping[str, ComparedMaps]
    statistics: tuple[PairedStatistic, ...]
    left_out: Mapping[str, int]
    """Objects that are in no comparison, by reason."""
    notes: tuple[str, ...]

    @property
    def origin(self) -> Origin:
        """Where row 0 of maps belongs."""
        return self.after.origin


@dataclass(frozen=True)
class _MapSums:
    number: NDArray[np.int64]
    """(G,) objects."""
    totals: Floats
    """(4, G, y, x) sums of before, after, difference and its square."""


@dataclass(frozen=True)
class _Sums:
    columns: Mapping[str, NDArray[Any]]
    maps: Mapping[str, _MapSums]
    left_out: Counter[str]


def compare_runs(
    before: Place, after: Place, *, partial: bool = False, on_progress: Progress | None = None
) -> Comparison:
    """Compare two attribution runs on the objects that both have, matched by their ids.

    Maps are read block by block. What is held of every object are some twenty numbers.

    Parameters
    ----------
    before, after
        Folders of attribution runs of the same classes.
    partial
        Compare unfinished runs, too.
    on_progress
        Told the number of blocks done and of all blocks.

    Raises
    ------
    RefusedError
        If one is no attribution run or not finished, or they have no classes, ids or numbers in
        common.
    """
    one, other = open_source(before), open_source(after)
    for source in (one, other):
        if not source.finished and not partial:
            raise RefusedError(
                f"{source.path}: the run is not finished; finish it with `occulta resume "
                f"{source.path}`, or compare what there is with --partial"
            )
    if one.classes != other.classes:
        raise RefusedError(
            f"{after}: its classes are {', '.join(other.classes)}, those of {before} "
            f"{', '.join(one.classes)}; compare networks of the same classes"
        )
    partner = _partners(one, other)
    if (partner < 0).all():
        raise RefusedError(
            f"{after}: has no object of {before}; explain both networks on the same survey"
        )
    targets, notes = _shared_maps(one, other)
    quantities = sorted(one.quantities.keys() & other.quantities.keys())

    def leaf(rows: slice) -> _Sums:
        return _sum_block(one, other, rows, partner[rows], targets, quantities)

    sums = reduce_blocks(one.spans(), leaf, _merge, on_progress)
    if not sums.columns:
        raise RefusedError(
            f"{after}: no object has results in it and in {before}; see quarantine.csv of both"
        )
    groups = (ALL, *one.classes)
    return Comparison(
        one,
        other,
        groups,
        sums.columns,
        {name: _finish(name, targets[name], found) for name, found in sums.maps.items()},
        tuple(_statistics(sums.columns, groups, quantities, list(targets))),
        {reason: number for reason, number in sums.left_out.items() if number},
        tuple(notes),
    )


def _partners(one: RunSource, other: RunSource) -> NDArray[np.int64]:
    """Return the row in the other run of each object, -1 where it has none."""
    mine, theirs = (
        source.read("catalogue/id", slice(0, source.objects)) for source in (one, other)
    )
    rows = {str(name): row for row, name in enumerate(theirs)}
    return np.array([rows.get(str(name), -1) for name in mine], dtype=np.int64)


def _shared_maps(one: RunSource, other: RunSource) -> tuple[dict[str, str], list[str]]:
    """Return the target of each array of maps that can be compared, and why others can't."""
    found, notes = {}, []
    for name in sorted(one.maps.keys() & other.maps.keys()):
        arrays = one.maps[name], other.maps[name]
        shapes = {
            to_pixels(array, np.zeros(source.array(array.path).shape[-2:])).shape
            for source, array in zip((one, other), arrays, strict=True)
        }
        if len(shapes) > 1:
            notes.append(f"{name}: its maps have different sizes, so they are not compared.")
            continue
        if not arrays[0].targeted:
            found[name] = ""
            continue
        known = [_targets(one, arrays[0]), _targets(other, arrays[1])]
        both = [t for t in (*_PREFERRED, *known[0]) if t in known[0] and t in known[1]]
        if both:
            found[name] = both[0]
        else:
            notes.append(f"{name}: the runs explain no class in common, so it is not compared.")
    return found, notes


def _targets(source: RunSource, array: MapArray) -> list[str]:
    path = f"{array.method}/target"
    return [str(name) for name in source.read(path, slice(0, source.array(path).shape[0]))]


def _sum_block(
    one: RunSource,
    other: RunSource,
    rows: slice,
    partner: NDArray[np.int64],
    targets: Mapping[str, str],
    quantities: Sequence[str],
) -> _Sums:
    first = read_block(one, rows)
    matched = np.flatnonzero(partner >= 0)
    left_out = Counter({"only in the run before": int((partner < 0).sum())})
    if not len(matched):
        return _Sums({}, {}, left_out)
    # Of catalogues in the same order, the block that holds the partners is just as large.
    span = slice(int(partner[matched].min()), int(partner[matched].max()) + 1)
    second = read_block(other, span)
    theirs = partner[matched] - span.start
    good = first.complete[matched] & second.complete[theirs]
    left_out["quarantined or pending in one of them"] = int((~good).sum())
    mine, theirs = matched[good], theirs[good]
    if not len(mine):
        return _Sums({}, {}, left_out)
    columns = _columns(one, other, (first, second), (mine, theirs))
    for name in quantities:
        quantity = one.quantities[name]
        for when, source, block, chosen in (
            ("before", one, first, mine),
            ("after", other, second, theirs),
        ):
            more = (0,) if quantity.of_map and source.array(quantity.path).ndim > 1 else ()
            values = source.read(source.quantities[name].path, block.rows, *more)
            columns[f"{name}_{when}"] = values[chosen].astype(np.float64)
    maps = {}
    for name, target in targets.items():
        pair = (
            _maps(one, name, target, first.rows, mine),
            _maps(other, name, target, second.rows, theirs),
        )
        same = columns["predicted_before"] == columns["predicted_after"]
        comparable = same if target == "predicted" else np.ones(len(mine), bool)
        comparable &= np.isfinite(pair[0]).all(axis=(1, 2)) & np.isfinite(pair[1]).all(axis=(1, 2))
        columns |= {
            f"{name}_{what}": np.where(comparable, values, np.nan)
            for what, values in _similarity(*pair).items()
        }
        maps[name] = _map_sums(*pair, comparable, first.label[mine], len(one.classes))
        left_out[f"{name}: explained for another class, or not at all"] += int((~comparable).sum())
    return _Sums(columns, maps, left_out)


def _columns(
    one: RunSource,
    other: RunSource,
    blocks: tuple[ObjectBlock, ObjectBlock],
    chosen: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> dict[str, NDArray[Any]]:
    """Return what the predictions were and became."""
    names = np.array([*one.classes, ""])
    label = blocks[0].label[chosen[0]]
    columns: dict[str, NDArray[Any]] = {
        "id": one.read("catalogue/id", blocks[0].rows)[chosen[0]],
        "label": names[label],
    }
    for when, source, block, mine in zip(
        ("before", "after"), (one, other), blocks, chosen, strict=True
    ):
        logit = source.read("prediction/logit", block.rows)[mine].astype(np.float64)
        e = np.exp(logit - logit.max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
        columns[f"predicted_{when}"] = names[block.predicted[mine]]
        columns[f"confidence_{when}"] = p.max(axis=1)
        of_label = p[np.arange(len(p)), np.maximum(label, 0)]
        columns[f"label_probability_{when}"] = np.where(label >= 0, of_label, np.nan)
        right = block.predicted[mine] == label
        columns[f"accuracy_{when}"] = np.where(label >= 0, right.astype(np.float64), np.nan)
    return columns


def _maps(
    source: RunSource, name: str, target: str, rows: slice, chosen: NDArray[np.int64]
) -> Floats:
    """Read the maps of some objects of a block, each divided by its sum of absolute values."""
    array = source.maps[name]
    number = _targets(source, array).index(target) if target else 0
    pixels = to_pixels(array, read_native(source, array, rows, target=number)[chosen])
    size = np.abs(pixels).sum(axis=(1, 2), keepdims=True)
    return pixels / np.where(size > 0, size, 1.0)


def _similarity(before_nyx: Floats, after_nyx: Floats) -> dict[str, Floats]:
    """Return how alike maps are: cosine, rank correlation, and how much moved elsewhere."""
    a, b = (np.nan_to_num(maps.reshape(len(maps), -1)) for maps in (before_nyx, after_nyx))
    moved = np.abs(a - b).sum(axis=1) / 2
    found = {"cosine": _cosine(a, b), "moved": moved}
    if a.shape[1]:
        ranks = [stats.rankdata(values, axis=1) for values in (a, b)]
        centred = [values - values.mean(axis=1, keepdims=True) for values in ranks]
        found["rank_correlation"] = _cosine(*centred)
    return found


def _cosine(a: Floats, b: Floats) -> Floats:
    """Return the cosine of rows; NaN where one of them is zero."""
    size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.minimum((a * b).sum(axis=1) / size, 1.0)
    return found


def _map_sums(
    before: Floats,
    after: Floats,
    comparable: NDArray[np.bool_],
    label: NDArray[np.int64],
    classes: int,
) -> _MapSums:
    number = np.zeros(1 + classes, np.int64)
    totals = np.zeros((4, 1 + classes, *before.shape[1:]))
    for group in range(1 + classes):
        here = comparable & (label == group - 1) if group else comparable
        difference = after[here] - before[here]
        number[group] = here.sum()
        for total, values in zip(
            totals, (before[here], after[here], difference, np.square(difference)), strict=True
        ):
            total[group] = values.sum(axis=0)
    return _MapSums(number, totals)


def _merge(parts: Sequence[_Sums]) -> _Sums:
    """Add sums of disjoint blocks, in the order given."""
    filled = [part for part in parts if part.columns] or list(parts[:1])
    columns = {
        name: np.concatenate([part.columns[name] for part in filled]) for name in filled[0].columns
    }
    maps = {}
    for name in filled[0].maps:
        number, totals = filled[0].maps[name].number.copy(), filled[0].maps[name].totals.copy()
        for part in filled[1:]:
            number += part.maps[name].number
            totals += part.maps[name].totals
        maps[name] = _MapSums(number, totals)
    return _Sums(columns, maps, sum((part.left_out for part in parts), Counter()))


def _finish(name: str, target: str, sums: _MapSums) -> ComparedMaps:
    n = sums.number[:, None, None].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        before, after, mean, square = sums.totals / n
        variance = np.maximum(square - mean * mean, 0.0) * n / (n - 1)
        error = np.where(n > 1, np.sqrt(variance / n), np.nan)
    return ComparedMaps(name, target, sums.number, before, after, mean, error)


def _statistics(
    columns: Mapping[str, NDArray[Any]],
    groups: Sequence[str],
    quantities: Sequence[str],
    maps: Sequence[str],
) -> list[PairedStatistic]:
    found = []
    similar = [f"{m}_{what}" for m in maps for what in ("cosine", "rank_correlation", "moved")]
    for group in groups:
        here = columns["label"] == group if group != ALL else np.ones(len(columns["id"]), bool)
        for name in ("accuracy", "confidence", "label_probability", *quantities):
            before, after = (columns[f"{name}_{when}"][here] for when in ("before", "after"))
            known = np.isfinite(before) & np.isfinite(after)
            found.append(_paired(name, group, before[known], after[known]))
        for name in similar:
            values = columns[name][here]
            found.append(_alone(name, group, values[np.isfinite(values)]))
    return [entry for entry in found if entry.objects]


def _paired(name: str, group: str, before: Floats, after: Floats) -> PairedStatistic:
    change = after - before
    if not len(change):
        return PairedStatistic(name, group, 0, *[np.nan] * 6)
    if name == "accuracy":
        better, worse = int((change > 0).sum()), int((change < 0).sum())
        p = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    else:
        p = stats.wilcoxon(change, method="approx").pvalue if change.any() else 1.0
    low, high = _interval(change)
    means = float(before.mean()), float(after.mean()), float(change.mean())
    return PairedStatistic(name, group, len(change), *means, low, high, float(p))


def _alone(name: str, group: str, values: Floats) -> PairedStatistic:
    mean = float(values.mean()) if len(values) else np.nan
    low, high = _interval(values) if len(values) else (np.nan, np.nan)
    return PairedStatistic(name, group, len(values), np.nan, np.nan, mean, low, high, np.nan)


def _interval(values: Floats) -> tuple[float, float]:
    if len(values) < 2:
        return np.nan, np.nan
    half = stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1)
    half *= values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)
