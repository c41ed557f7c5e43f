"""The store of the strongest responses: Zarr v3, one group per layer, read by xarray alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
import zarr.codecs
from numpy.typing import NDArray

from attribution.layers import safe_name
from attribution.weights import never_respond

from ..products import write_array
from .lists import TopList

_CODECS = (
    zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
    zarr.codecs.Crc32cCodec(),
)
TOGETHER = 16
"""Filters that are written together, into one file."""
_NAMES = {
    "axis": ("y", "x"),
    "edge": ("first row", "first column", "row after the last", "column after the last"),
}


class LayerStore:
    """The group of one layer; its ``pixels``, crop and projection, are empty at first.

    Parameters
    ----------
    root : the store
    found : the layer's list
    ids : identifiers of its objects by row of the catalogue
    bands : channels of the network's input
    projected : whether there will be projections
    """

    def __init__(
        self,
        root: zarr.Group,
        found: TopList,
        ids: Mapping[int, str],
        bands: int,
        projected: bool,
    ) -> None:
        group = root.create_group(safe_name(found.layer), attributes={"layer": found.layer})
        names = np.array([[ids.get(row, "") for row in line] for line in found.object.tolist()])
        rank = ("filter", "rank")
        _put(group, "value", found.value, rank, "response", "value descending, then object")
        _put(group, "object", found.object, rank, "row of the catalogue, -1 where there is none")
        _put(group, "id", names.astype(object), rank, "identifier of the object")
        _put(group, "position", found.position, (*rank, "axis"), "position in the layer's output")
        box = "the part of the network's input that the position sees"
        _put(group, "box", found.box, (*rank, "edge"), box)
        silence = "filter that no object makes respond: no response is above 0"
        _put(group, "silent", never_respond(found.value.T), ("filter",), silence)
        for name, entries in _NAMES.items():
            _put(group, name, np.array(entries, dtype=object), (name,), name)
        shape = (*found.object.shape, bands, *found.crop_shape)
        corner = "first row and column at 0; NaN beyond the box"
        self.pixels = {"crop": _pixels(group, "crop", shape, "network input in the box", corner)}
        if projected:
            convention = f"Zeiler & Fergus 2014, figure 2: deconvnet of one activation; {corner}"
            self.pixels["projection"] = _pixels(
                group, "projection", shape, "what in the box makes the filter respond", convention
            )


def _pixels(
    group: zarr.Group, name: str, shape: tuple[int, ...], long_name: str, convention: str
) -> zarr.Array[Any]:
    pixels = [max(size, 1) for size in shape[1:]]
    return group.create_array(
        name,
        shape=shape,
        shards=(min(TOGETHER, shape[0]), *pixels),
        chunks=(1, *pixels),
        dtype="float32",
        fill_value=np.nan,
        compressors=_CODECS,
        dimension_names=("filter", "rank", "channel", "crop_y", "crop_x"),
        attributes={"long_name": long_name, "units": "1", "convention": convention},
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},
    )


def _put(
    group: zarr.Group,
    name: str,
    values: NDArray[Any],
    dims: tuple[str, ...],
    long_name: str,
    convention: str = "",
) -> None:
    described = {"long_name": long_name, **({"convention": convention} if convention else {})}
    write_array(group, name, values, dims, described)
