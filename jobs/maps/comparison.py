"""What a comparison of two runs leaves: a Zarr store, tables and pictures, and a few sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from matplotlib.figure import Figure

from cluster.place import Place
from cluster.reading import zarr_store

from ..errors import RefusedError
from ..products import consolidate, new_folder, write_array
from .compare import ALL, ComparedMaps, Comparison, PairedStatistic
from .figures import LIGHT, SIGNED, png, signed_scale, styled
from .source import open_source

COMPARE = "compare"
"""The folder in the run that is compared with an earlier one."""
_STORE = "compare.zarr"
_SEEN = 3.0
"""Differences below so many standard errors are left white in pictures."""
_TOLD = 0.05
"""The p-value below which a sentence calls a change one."""


@dataclass(frozen=True)
class ComparisonProduct:
    """Where a comparison was written."""

    path: Place
    files: tuple[Place, ...]
    lines: tuple[str, ...]
    """What changed, in sentences."""


def write_comparison(found: Comparison, out: Place) -> ComparisonProduct:
    """Write a comparison; an older one that is there is replaced when the new one is whole.

    Raises
    ------
    RefusedError
        If something else is there.
    StorageError
        If it can't be written.
    """
    if out.exists() and not (out / _STORE / "zarr.json").exists():
        raise RefusedError(f"{out}: is there and no comparison; give another --out")
    names = [_STORE, "objects.csv", "statistics.csv", *(f"{m}.png" for m in found.maps)]
    with new_folder(out) as folder:
        _write_store(found, folder / names[0])
        pd.DataFrame(dict(found.objects)).to_csv(folder / names[1], index=False)
        pd.DataFrame([vars(entry) for entry in found.statistics]).to_csv(
            folder / names[2], index=False
        )
        for name, maps in found.maps.items():
            (folder / f"{name}.png").write_bytes(draw_difference(found, maps))
    return ComparisonProduct(out, tuple(out / name for name in names), tuple(sentences(found)))


def is_compared(before: Place, after: Place) -> bool:
    """Tell whether exactly these results are compared in the folder of the later run."""
    store = after / COMPARE / _STORE
    try:
        attributes = zarr.open_group(zarr_store(store), mode="r").attrs.asdict()
        runs = [open_source(run) for run in (before, after)]
    except (OSError, ValueError, RefusedError):
        return False
    known = [attributes.get("before_digest"), attributes.get("after_digest")]
    return known == [run.manifest.get("results_digest") for run in runs]


def sentences(found: Comparison) -> Iterator[str]:
    """Say what changed, with the numbers of all objects."""
    known = {entry.quantity: entry for entry in found.statistics if entry.group == ALL}
    yield (
        f"{len(found.objects['id']):,} objects, before: {found.before.name}, after: "
        f"{found.after.name}."
    )
    for name, what in (("accuracy", "Accuracy"), ("mutual_information", "Mutual information")):
        if name in known:
            yield f"{what} {_change(known[name])}."
    for name, maps in found.maps.items():
        moved, cosine = known.get(f"{name}_moved"), known.get(f"{name}_cosine")
        if moved is None or cosine is None:
            continue
        seen = float(np.mean(np.abs(_significance(maps)[0]) >= _SEEN))
        yield (
            f"{name.replace('_', ' ').capitalize()}: {moved.change:.0%} of it is elsewhere or of "
            f"the other sign (cosine {cosine.change:.2f}, {moved.objects:,} objects); the mean map "
            f"changed by {_SEEN:g} standard errors or more in {seen:.0%} of the pixels."
        )
    yield (
        f"{sum(np.isfinite(entry.p_value) for entry in found.statistics)} tests were made; "
        "p-values are not corrected for that."
    )


def draw_difference(found: Comparison, maps: ComparedMaps) -> bytes:
    """Draw mean maps before and after and their difference, a row for each group, as PNG."""
    shown = [g for g, number in enumerate(maps.number) if number > 1] or [0]
    scales = (
        signed_scale([maps.before[shown], maps.after[shown]]),
        signed_scale([maps.difference[shown]]),
    )
    sure = np.where(np.abs(_significance(maps)) >= _SEEN, maps.difference, 0.0)
    columns = (
        ("before", maps.before, scales[0]),
        ("after", maps.after, scales[0]),
        ("after less before", maps.difference, scales[1]),
        (f"at {_SEEN:g} standard errors", sure, scales[1]),
    )
    with styled(LIGHT):
        figure = Figure(
            figsize=(8.4, 2.05 * len(shown) + 1.2),
            dpi=110,
            facecolor=LIGHT.ground,
            layout="constrained",
        )
        grid = figure.subplots(len(shown), len(columns), squeeze=False)
        for row, group in enumerate(shown):
            for column, (title, values, scale) in enumerate(columns):
                axes = grid[row, column]
                drawn = axes.imshow(
                    values[group], cmap=SIGNED, vmin=-scale, vmax=scale, origin=found.origin
                )
                axes.set_xticks([])
                axes.set_yticks([])
                if row == 0:
                    axes.set_title(title, fontsize=9)
                if column == 0:
                    axes.set_ylabel(
                        f"{found.groups[group]}\nN = {maps.number[group]:,}", fontsize=8
                    )
                if row == len(shown) - 1 and column % 2:
                    # Each two columns share a scale.
                    bar = figure.colorbar(
                        drawn, ax=grid[:, column - 1 : column + 1], location="bottom", aspect=40
                    )
                    bar.set_label("share of the attribution", fontsize=8)
                    bar.ax.tick_params(labelsize=7)
                    bar.ax.locator_params(nbins=4)
        target = f", target {maps.target}" if maps.target else ""
        figure.suptitle(f"Mean {maps.name.replace('_', ' ')}{target}", fontsize=11)
        return png(figure)


def _significance(maps: ComparedMaps) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return differences in standard errors (G, y, x); 0 where nothing varies."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(maps.difference / maps.standard_error, posinf=0.0, neginf=0.0)


def _change(entry: PairedStatistic) -> str:
    far = "" if entry.p_value < _TOLD else ", which chance does, too"
    return (
        f"goes from {entry.before:.3f} to {entry.after:.3f}, by {entry.change:+.3f} "
        f"({entry.low:+.3f} to {entry.high:+.3f}, p = {entry.p_value:.2g}{far})"
    )


def _write_store(found: Comparison, path: Path) -> None:
    root = zarr.open_group(
        path,
        mode="w",
        attributes={
            "before": found.before.name,
            "after": found.after.name,
            "before_digest": str(found.before.manifest.get("results_digest", "")),
            "after_digest": str(found.after.manifest.get("results_digest", "")),
            "left_out": dict(found.left_out),
            "notes": list(found.notes),
        },
    )
    objects = root.create_group("objects")
    for name, values in found.objects.items():
        plain = values.astype(object) if values.dtype.kind not in "fiu" else values
        write_array(objects, name, plain, ("object",), {"long_name": name.replace("_", " ")})
    table = root.create_group("statistics")
    for part in fields(PairedStatistic):
        column = np.array([getattr(entry, part.name) for entry in found.statistics])
        plain = column.astype(object) if column.dtype.kind == "U" else column
        write_array(table, part.name, plain, ("row",), {"long_name": part.name.replace("_", " ")})
    for name, maps in found.maps.items():
        group = root.create_group(name, attributes={"target": maps.target})
        write_array(group, "group", np.array(found.groups, dtype=object), ("group",), {})
        write_array(group, "number", maps.number, ("group",), {"long_name": "objects"})
        for what, text in (
            ("before", "mean share of the attribution, before"),
            ("after", "mean share of the attribution, after"),
            ("difference", "mean of after less before"),
            ("standard_error", "standard error of the difference"),
        ):
            attributes = {"long_name": text, "units": "1"}
            write_array(group, what, getattr(maps, what), ("group", "y", "x"), attributes)
    consolidate(root)
