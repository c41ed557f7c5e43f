"""Pictures of an inceptionism run: what each class looks like to the network, and its dreams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cluster.place import Place, write_at
from cluster.reading import zarr_store

from ..errors import RefusedError
from ..maps.figures import LIGHT, Ink, png
from ..run.catalogue import COMPLETE
from ..run.status import STORE, read_manifest
from ..specs.plain_yaml import parse_yaml
from ..specs.survey import PICTURES

FIGURES = "figures"
"""Folder of the pictures inside the run folder."""
_SIDE = 1.9
"""Inches of an image's side on the page."""
_MOST_ROWS = 64
"""Rows of a figure; a run may have more images than a picture can show."""
_TAIL = 0.5
"""Per cent of the pixels that are black, and that are white, where no valid range is known."""


@dataclass(frozen=True)
class _Picture:
    image: NDArray[np.floating]
    caption: str


@dataclass(frozen=True)
class Section:
    """The picture of one section of a job."""

    group: str
    """The section's group in the store."""
    method: str
    """class_image or deep_dream."""
    grows: str
    """What a dream makes grow; empty for class images."""
    png: bytes
    """All images of the section."""


def write_inception_figures(run: Place) -> list[Place]:
    """Draw one PNG for each section of an inceptionism run, into its folder ``figures``.

    Returns
    -------
    the files, in the order of the job file's sections
    """
    files = []
    for section in draw_sections(run):
        files.append(run / FIGURES / f"{section.group}.png")
        write_at(files[-1], section.png)
    return files


def draw_sections(run: Place) -> Iterator[Section]:
    """Draw the images of an inceptionism run, section by section.

    Raises
    ------
    RefusedError
        If this is a run of another kind, or it is not finished.
    """
    manifest = read_manifest(run)
    if manifest["kind"] != "inceptionism":
        raise RefusedError(
            f"{run}: a run of kind {manifest['kind']} has drawn no images; give one of kind "
            "inceptionism"
        )
    if not manifest.get("results_digest"):
        raise RefusedError(f"{run}: the run is not finished; finish it: occulta resume {run}")
    stored = (run / "job.yaml").read_text(encoding="utf-8")
    job: dict[str, Any] = parse_yaml(stored, "job.yaml")
    survey = job["survey"]
    # Bands of flux come from blue to red; pictures are red, green, blue already.
    flip = survey is None or survey["format"] not in PICTURES
    with xr.open_datatree(zarr_store(run / STORE), engine="zarr", chunks=None) as results:
        for section in job["images"]:
            method, group = section["method"], section["name"] or section["method"]
            if method == "class_image":
                png, grows = class_image_grid(results, group, blue_first=flip), ""
            else:
                png = dream_grid(results, group, blue_first=flip)
                long_name = str(_array(results, f"{group}/score").attrs["long_name"])
                grows = long_name.removesuffix(" for the dream")
            yield Section(group, method, grows, png)


def class_image_grid(
    results: xr.DataTree, group: str, *, blue_first: bool = True, ink: Ink = LIGHT
) -> bytes:
    """Draw class images as PNG: a row per class, a column per repetition.

    Parameters
    ----------
    results : the store of a run
    group : the section's group in it
    blue_first : whether channels go from blue to red
    ink : colours of text and ground
    """
    rows = _rows(results, group)
    classes = _array(results, "catalogue/class").to_numpy()
    names = list(dict.fromkeys(str(classes[row]) for row in rows))
    grid = [
        [
            _Picture(
                _colours(results, group, "image", row, blue_first),
                f"{name}: logit {_number(results, f'{group}/logit', row):.3g}, "
                f"p {_number(results, f'{group}/probability', row):.2f}",
            )
            for row in rows
            if classes[row] == name
        ]
        for name in names[:_MOST_ROWS]
    ]
    return _draw(grid, ink)


def dream_grid(
    results: xr.DataTree, group: str, *, blue_first: bool = True, ink: Ink = LIGHT
) -> bytes:
    """Draw dreams as PNG: each start beside what became of it; parameters as above."""
    starts = _array(results, "catalogue/start").to_numpy()
    grid = []
    for row in _rows(results, group)[:_MOST_ROWS]:
        before = _number(results, f"{group}/start_score", row)
        after = _number(results, f"{group}/score", row)
        grid.append(
            [
                _Picture(
                    _colours(results, group, "start", row, blue_first),
                    f"{starts[row]}: {before:.3g}",
                ),
                _Picture(_colours(results, group, "image", row, blue_first), f"dream: {after:.3g}"),
            ]
        )
    return _draw(grid, ink)


def _rows(results: xr.DataTree, group: str) -> list[int]:
    """Return the rows of a section whose images are there."""
    of_section = _array(results, "catalogue/section").to_numpy() == group
    complete = _array(results, "status").to_numpy() == COMPLETE
    return [int(row) for row in np.flatnonzero(of_section & complete)]


def _array(results: xr.DataTree, path: str) -> xr.DataArray:
    found = results[path]
    assert isinstance(found, xr.DataArray), path
    return found


def _number(results: xr.DataTree, path: str, row: int) -> float:
    return float(_array(results, path).isel(object=row))


def _colours(
    results: xr.DataTree, group: str, name: str, row: int, blue_first: bool
) -> NDArray[np.floating]:
    """Bring an image at the network's input to red, green and blue from 0 to 1, (h, w, 3).

    Black and white are the ends of the survey's valid range where it is known, the same for all
    images; and otherwise percentiles of the image's own pixels. One or two channels are grey.
    """
    image = _array(results, f"{group}/{name}").isel(object=row).to_numpy().astype(np.float64)
    known = _array(results, f"{group}/image").attrs
    if "valid_low" in known:
        low, high = np.array(known["valid_low"]), np.array(known["valid_high"])
    else:
        low, high = np.percentile(image, [_TAIL, 100 - _TAIL], axis=(1, 2))
    span = np.where(high > low, high - low, 1.0)
    shown = np.clip((image - low[:, None, None]) / span[:, None, None], 0.0, 1.0)
    if len(shown) < 3:
        shown = np.repeat(shown.mean(axis=0)[None], 3, axis=0)
    rgb = (shown[::-1] if blue_first else shown)[:3]
    return np.moveaxis(rgb, 0, -1)


def _draw(grid: Sequence[Sequence[_Picture]], ink: Ink) -> bytes:
    columns = max((len(row) for row in grid), default=1)
    size = (columns * (_SIDE + 0.1) + 0.1, max(1, len(grid)) * (_SIDE + 0.35) + 0.1)
    figure = Figure(figsize=size, dpi=140, facecolor=ink.ground)
    for y, row in enumerate(grid):
        for x, picture in enumerate(row):
            left = (0.1 + x * (_SIDE + 0.1)) / size[0]
            bottom = 1 - (y + 1) * (_SIDE + 0.35) / size[1]
            axes = figure.add_axes((left, bottom, _SIDE / size[0], _SIDE / size[1]))
            axes.imshow(picture.image, interpolation="nearest")
            axes.set_title(picture.caption, fontsize=7, pad=3, color=ink.text, parse_math=False)
            axes.set_axis_off()
    return png(figure)
