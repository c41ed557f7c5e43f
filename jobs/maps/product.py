"""The survey-wide maps of a run: in memory, and as the Zarr store that they are kept in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.codecs
from numpy.typing import NDArray

from cluster.place import Place
from cluster.reading import zarr_store

from ..products import consolidate, write_array
from .contents import COUNT, Quantity
from .healpix import CellMeans, SkyTable
from .source import Origin
from .stacks import MeanAttribution

STANDARD_ERROR = "sample standard deviation / sqrt(number); NaN for fewer than two objects"


@dataclass(frozen=True)
class MapsProduct:
    """The survey-wide maps of one run, and where they were written."""

    path: Place
    """RUN/maps."""
    run: str
    """Name of the run."""
    survey: str
    """Name of the survey, for titles."""
    sky: SkyTable
    """Means per HEALPix cell."""
    stacks: Mapping[str, MeanAttribution]
    """Mean attribution per group, by name of the maps."""
    group_by: str
    """What the groups are."""
    origin: Origin
    """Where row 0 of the mean attributions belongs when they are shown."""
    objects: int
    """Objects in the run's catalogue."""
    mapped: int
    """Objects on the sky maps."""
    left_out: Mapping[str, int]
    """Objects that are on no sky map, by reason; only reasons that occur."""
    notes: tuple[str, ...]
    """What is missing from the maps, and why; one sentence each."""
    partial: bool
    """Whether the run was not finished when it was aggregated."""
    results_digest: str
    """Digest of the results that were aggregated; empty for an unfinished run."""

    @property
    def quantities(self) -> dict[str, Quantity]:
        """What is mapped on the sky, by name."""
        return {"count": COUNT} | {name: m.quantity for name, m in self.sky.means.items()}

    @property
    def zarr(self) -> Place:
        """The Zarr store with all maps."""
        return self.path / "maps.zarr"

    @property
    def fits(self) -> Place:
        """The sky maps as a FITS table."""
        return self.path / "healpix.fits"

    @property
    def figures(self) -> tuple[Place, ...]:
        """The pictures."""
        return (
            *(self.path / f"{name}.png" for name in self.quantities),
            *(self.path / f"mean_attribution_{name}.png" for name in self.stacks),
        )


def write_store(product: MapsProduct, store: Path) -> None:
    """Write all maps as a Zarr v3 store, readable with xarray alone.

    Sky cells are sparse (populated cells only), in the form that xdggs and the CF grid mapping
    ``healpix`` describe. Pixel values and metadata are the same bytes for the same maps.
    """
    common: dict[str, Any] = {
        "run": product.run,
        "survey": product.survey,
        "group_by": product.group_by,
        "origin": product.origin,
        "min_count": product.sky.min_count,
        "partial": product.partial,
        "results_digest": product.results_digest,
        "objects": product.objects,
        "mapped": product.mapped,
        "left_out": dict(product.left_out),
        "notes": list(product.notes),
        "averaged": list(product.sky.means),
        "stacked": list(product.stacks),
    }
    root = zarr.open_group(store, mode="w", attributes=common)
    _write_sky(root.create_group("healpix", attributes={"partial": product.partial}), product.sky)
    for name, stack in product.stacks.items():
        attributes = {
            "partial": product.partial,
            "maps": name,
            "long_name": stack.long_name,
            "target": stack.target,
            "origin": product.origin,
        }
        _write_stack(root.create_group(f"mean_attribution/{name}", attributes=attributes), stack)
    consolidate(root)


def _write_sky(group: zarr.Group, sky: SkyTable) -> None:
    grid = {
        "grid_mapping_name": "healpix",
        "refinement_level": sky.level,
        "indexing_scheme": "nested",
        "reference_body": "sphere",
        "long_name": "HEALPix cells on the sphere, ICRS",
    }
    write_array(group, "crs", np.array(0, np.int32), (), grid)
    cell = {
        "standard_name": "healpix_index",
        "long_name": "nested HEALPix cell number",
        "grid_name": "healpix",
        "level": sky.level,
        "indexing_scheme": "nested",
        "units": "1",
    }
    write_array(group, "cell_ids", sky.cells, ("cells",), cell)
    for name, centre in zip(("ra", "dec"), sky.centres(), strict=True):
        attributes = {"units": "degree", "long_name": f"{name} of the cell's centre, ICRS"}
        write_array(group, name, centre, ("cells",), attributes)
    mapped = {"grid_mapping": "crs", "coordinates": "cell_ids ra dec"}
    attributes = {"units": COUNT.units, "long_name": COUNT.long_name}
    write_array(group, "count", sky.count, ("cells",), attributes | mapped)
    for name, means in sky.means.items():
        _write_means(group, name, means, mapped)


def _write_means(group: zarr.Group, name: str, means: CellMeans, mapped: dict[str, str]) -> None:
    unit, long_name = means.quantity.units, means.quantity.long_name
    text: dict[str, Any] = {"units": unit, "long_name": long_name, "source": means.quantity.path}
    write_array(group, name, means.mean, ("cells",), text | mapped)
    error = {
        "units": unit,
        "long_name": f"standard error of {long_name}",
        "convention": STANDARD_ERROR,
        **mapped,
    }
    write_array(group, f"{name}_standard_error", means.standard_error, ("cells",), error)
    number = {"units": "objects", "long_name": f"objects in {long_name}", **mapped}
    write_array(group, f"{name}_count", means.number, ("cells",), number)


def _write_stack(group: zarr.Group, stack: MeanAttribution) -> None:
    names = group.create_array(
        "group",
        shape=(len(stack.groups),),
        dtype="string",
        chunks=(max(len(stack.groups), 1),),
        dimension_names=("group",),
        attributes={"long_name": "group of objects"},
    )
    if stack.groups:
        names[:] = np.array(stack.groups, dtype=np.dtypes.StringDType())
    dims = ("group", "y", "x")
    text = {"units": stack.units, "long_name": f"mean of {stack.long_name}"}
    write_array(group, "mean", stack.mean, dims, {**text, "coordinates": "group"})
    error = {"units": stack.units, "long_name": "standard error of the mean"}
    write_array(
        group, "standard_error", stack.standard_error, dims, error | {"convention": STANDARD_ERROR}
    )
    write_array(
        group, "count", stack.number, ("group",), {"units": "objects", "long_name": "objects"}
    )


def read_store(path: Place) -> MapsProduct:
    """Read maps that `write_store` wrote.

    Parameters
    ----------
    path : RUN/maps

    Raises
    ------
    FileNotFoundError, KeyError, ValueError
        If there is no whole store of this version; build it again.
    """
    root = zarr.open_group(zarr_store(path / "maps.zarr"), mode="r")
    attributes: dict[str, Any] = root.attrs.asdict()
    stacks = {name: _read_stack(root, name) for name in attributes["stacked"]}
    return MapsProduct(
        path=path,
        run=str(attributes["run"]),
        survey=str(attributes["survey"]),
        sky=_read_sky(root, attributes["averaged"], int(attributes["min_count"])),
        stacks=stacks,
        group_by=str(attributes["group_by"]),
        origin="upper" if attributes["origin"] == "upper" else "lower",
        objects=int(attributes["objects"]),
        mapped=int(attributes["mapped"]),
        left_out=attributes["left_out"],
        notes=tuple(attributes["notes"]),
        partial=bool(attributes["partial"]),
        results_digest=str(attributes["results_digest"]),
    )


def _read_sky(root: zarr.Group, averaged: list[str], min_count: int) -> SkyTable:
    attributes: dict[str, Any] = root["healpix/cell_ids"].attrs.asdict()
    return SkyTable(
        1 << int(attributes["level"]),
        _get(root, "healpix/cell_ids"),
        _get(root, "healpix/count"),
        {name: _read_means(root, name) for name in averaged},
        min_count,
    )


def _read_means(root: zarr.Group, name: str) -> CellMeans:
    text: dict[str, Any] = root[f"healpix/{name}"].attrs.asdict()
    return CellMeans(
        Quantity(name, str(text["long_name"]), str(text["units"]), str(text["source"])),
        _get(root, f"healpix/{name}"),
        _get(root, f"healpix/{name}_standard_error"),
        _get(root, f"healpix/{name}_count"),
    )


def _read_stack(root: zarr.Group, name: str) -> MeanAttribution:
    base = f"mean_attribution/{name}"
    text: dict[str, Any] = root[base].attrs.asdict()
    return MeanAttribution(
        name=name,
        long_name=str(text["long_name"]),
        target=str(text["target"]),
        groups=tuple(str(name) for name in _get(root, f"{base}/group")),
        number=_get(root, f"{base}/count"),
        mean=_get(root, f"{base}/mean"),
        standard_error=_get(root, f"{base}/standard_error"),
        units=str(root[f"{base}/mean"].attrs.asdict()["units"]),
    )


def _get(root: zarr.Group, name: str) -> NDArray[Any]:
    array = root[name]
    if not isinstance(array, zarr.Array):
        raise KeyError(name)
    return np.asarray(array[...])
