"""The store of an atlas: Zarr v3, groups ``objects`` and ``cells``, read by xarray alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import zarr
import zarr.codecs
from numpy.typing import NDArray

from attribution.inceptionism import ClassImage, Colours
from attribution.inceptionism.feature_inversion import LEAST_COSINE, POWER, RIDGE

from ..products import write_array
from .cells import Cells, dominant
from .icons import Box, Icons

_CODECS = (
    zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
    zarr.codecs.Crc32cCodec(),
)
_TEXT_CODECS = (zarr.codecs.ZstdCodec(level=3), zarr.codecs.Crc32cCodec())
_CHUNK = 65536
_GRID = ("y", "x")
_SQUARE = "UMAP of all surveys together, scaled to the unit square; few outliers lie at its edge"


class ObjectStore:
    """Where the objects of all surveys lie, written from the first to the last.

    Parameters
    ----------
    root : the store
    objects : how many there will be
    """

    def __init__(self, root: zarr.Group, objects: int) -> None:
        group = root.create_group("objects")

        def array(name: str, dtype: Any, long_name: str, convention: str) -> zarr.Array[Any]:
            described = _described(dtype, long_name, convention)
            return _create(group, name, (objects,), _CHUNK, dtype, ("object",), described)

        self._arrays = {
            "id": array("id", str, "identifier of the object", "in the order of each catalogue"),
            "survey": array("survey", str, "survey of the object", ""),
            "x": array("x", "float32", "place of the object in the atlas, to the right", _SQUARE),
            "y": array("y", "float32", "place of the object in the atlas, upwards", _SQUARE),
            "cell": array(
                "cell", "int32", "cell of the object", "row * columns + column; -1 without a place"
            ),
        }
        self._end = 0

    def read(self, name: str, rows: slice) -> NDArray[Any]:
        """Read one column of some objects."""
        return np.asarray(self._arrays[name][rows])

    def append(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Write further objects: id, survey, x, y and cell."""
        start, self._end = self._end, self._end + len(columns["id"])
        for name, array in self._arrays.items():
            array[start : self._end] = columns[name]


def write_cells(
    root: zarr.Group, cells: Cells, surveys: Sequence[str], classes: tuple[str, ...]
) -> zarr.Group:
    """Write what is known of the cells without the network, and return their group."""
    group = root.create_group("cells")
    centre = (np.arange(cells.side) + 0.5) / cells.side
    for axis in _GRID:
        _put(group, axis, centre, (axis,), f"{axis} of the cell's centre", "in the unit square")
    for name, values in (("survey", surveys), ("class", classes)):
        _put(group, name, np.array(values, dtype=object), (name,), name)
    every = ("survey", *_GRID)
    more = f"NaN in cells without more than {cells.minimum} activations of all surveys together"
    _put(group, "count", cells.count, every, "activations in the cell", units="objects")
    mean = cells.mean.astype(np.float32)
    _put(group, "activation", mean, (*_GRID, "channel"), "mean activation of the cell", more)
    if len(surveys) > 1:
        share = "count / all activations of the survey, relative to the sum of that over surveys"
        long_name = "share of the survey in the cell"
        _put(group, "share", cells.share.astype(np.float32), every, long_name, f"{share}; {more}")
    for name, words, counts in (
        ("predicted", "predicted class", cells.predicted),
        ("label", "label", cells.label),
    ):
        if not counts.any():
            continue  # a catalogue without labels, or with others than the network's classes
        long_name = f"activations in the cell by {words}"
        _put(group, f"{name}_count", counts, (*every, "class"), long_name, units="objects")
        most = dominant(counts.sum(axis=0), classes).astype(object)
        long_name = f"most frequent {words} of the cell, of all surveys together"
        _put(group, name, most, _GRID, long_name, "the first of equal ones; empty without any")
    return group


def write_icons(
    group: zarr.Group,
    cells: Cells,
    icons: Icons,
    settings: ClassImage,
    colours: Colours,
    box: Box,
) -> None:
    """Write the icons of the populated cells into the cells' group."""
    drawn = asdict(settings) | {"whitening_ridge": RIDGE, "least_cosine": LEAST_COSINE}
    attributes: dict[str, Any] = drawn | {
        "power": POWER,
        "box": list(box),
        "valid_low": colours.low.tolist(),
        "valid_high": colours.high.tolist(),
    }
    described = _described(
        "float32",
        "icon of the cell, at the network's input",
        "Carter et al. 2019: argmax of (a . d) max(0.1, cos(a, d))^4 with a what the middle of the "
        "layer puts out and d = M^-1 v of the cell's mean v; the part of the image that it sees",
    )
    dims = (*_GRID, "band", "icon_y", "icon_x")
    _put_pictures(group, "icon", _spread(cells, icons.image), dims, described | attributes)
    for name, values, long_name, convention in (
        ("icon_cosine", icons.cosine, "cosine of the icon's activation and its direction", ""),
        (
            "icon_rank",
            icons.rank,
            "cells whose direction the icon answers more strongly than its own",
            "0 for a faithful icon; -1 without an icon",
        ),
    ):
        _put(group, name, _spread(cells, values), _GRID, long_name, convention)


def write_examples(
    group: zarr.Group,
    cells: Cells,
    names: Mapping[str, NDArray[Any]],
    cosine: NDArray[np.float32],
    patches: NDArray[np.float32],
) -> None:
    """Write the most typical object of each populated cell into the cells' group.

    Parameters
    ----------
    names : ``example``, identifiers, and ``example_survey``
    cosine : of the object's activation and the cell's mean
    patches : what the place sees of the object
    """
    nearest = "the object whose activation has the largest cosine with the cell's mean"
    for name, long_name in (
        ("example", "most typical object of the cell"),
        ("example_survey", "survey of the most typical object"),
    ):
        values = _spread(cells, names[name])
        _put(group, name, values, _GRID, long_name, f"{nearest}; empty without any")
    long_name = "cosine of the most typical object's activation and the cell's mean"
    _put(group, "example_cosine", _spread(cells, cosine), _GRID, long_name)
    dims, long_name = (*_GRID, "band", "patch_y", "patch_x"), "what the place sees of the example"
    described = _described("float32", long_name, "at the network's input; NaN beyond the image")
    _put_pictures(group, "patch", _spread(cells, patches), dims, described)


def _spread(cells: Cells, values: NDArray[Any]) -> NDArray[Any]:
    """Put values of the populated cells onto the grid; others are NaN, -1 or empty."""
    absent = {"f": np.nan, "O": ""}.get(values.dtype.kind, -1)
    spread = np.full((cells.side, cells.side, *values.shape[1:]), absent, dtype=values.dtype)
    spread[cells.populated] = values
    return spread


def _put(
    group: zarr.Group,
    name: str,
    values: NDArray[Any],
    dims: tuple[str, ...],
    long_name: str,
    convention: str = "",
    units: str = "1",
) -> None:
    write_array(group, name, values, dims, _described(values.dtype, long_name, convention, units))


def _put_pictures(
    group: zarr.Group,
    name: str,
    pictures: NDArray[np.float32],
    dims: tuple[str, ...],
    attributes: Mapping[str, Any],
) -> None:
    """Write a picture for each cell, a row of cells to a file."""
    array = _create(group, name, pictures.shape, 1, "float32", dims, attributes)
    array[...] = pictures


def _described(dtype: Any, long_name: str, convention: str, units: str = "1") -> dict[str, str]:
    described = {"long_name": long_name} | ({"convention": convention} if convention else {})
    return described | ({"units": units} if np.dtype(dtype).kind in "fiu" else {})


def _create(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    together: int,
    dtype: Any,
    dims: tuple[str, ...],
    attributes: Mapping[str, Any],
) -> zarr.Array[Any]:
    """Create an array that is written piece by piece."""
    text = dtype is str
    return group.create_array(
        name,
        shape=shape,
        chunks=(min(together, shape[0]), *(max(1, size) for size in shape[1:])),
        dtype=dtype,
        fill_value=None if text or np.dtype(dtype).kind != "f" else np.nan,
        compressors=_TEXT_CODECS if text else _CODECS,
        dimension_names=dims,
        attributes=dict(attributes),
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},
    )
