"""What a result store holds, told from its arrays' dimensions: maps, and numbers per object.

No method is known by name here, so a method that is added later is drawn, stacked and mapped too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import zarr

Array = zarr.Array[Any]

OTHER_GROUPS = ("catalogue", "prediction", "summary")
"""Groups of the store that are no methods."""

_PRIMARY = ("attribution", "grid")
"""Arrays that go by the name of their method alone."""
_PLAIN = "mc_dropout"
"""The method whose numbers are mapped under their own names, such as ``predictive_entropy``."""


@dataclass(frozen=True)
class Windows:
    """The windows that a grid is of; it expands to pixels."""

    image_shape: tuple[int, int]
    """Height and width of the image."""
    window: tuple[int, int]
    """Height and width of a window."""
    stride: tuple[int, int]
    """Distance of neighbouring windows."""


@dataclass(frozen=True)
class MapArray:
    """An array with a map per object: (object, [target,] [channel,] y, x), or a grid of windows."""

    name: str
    """What it is called in the maps and in the report."""
    method: str
    """The group that it is in."""
    path: str
    """Where it is in the store."""
    long_name: str
    """What it shows."""
    units: str
    """Units of its values."""
    targeted: bool
    """Whether it has a target axis."""
    windows: Windows | None
    """For a grid: its windows; None if the last two axes are pixels."""

    @property
    def explains(self) -> bool:
        """Whether this is the attribution of its method, not something beside it."""
        return self.name == self.method


@dataclass(frozen=True)
class Quantity:
    """A number per object that is averaged over cells of the sky."""

    name: str
    """Name of its map."""
    long_name: str
    """What a plot puts on the axis."""
    units: str
    """Units in CF spelling; ``1`` is dimensionless."""
    path: str = ""
    """Where it is in the store; empty if it follows from other arrays."""
    of_map: str = ""
    """The method whose first target's map it describes; empty if it describes the object."""

    @property
    def axis_label(self) -> str:
        """Long name with units, if it has any."""
        return self.long_name + ("" if self.units in ("1", "objects") else f" [{self.units}]")


COUNT = Quantity("count", "number of objects", "objects")
ACCURACY = Quantity("accuracy", "accuracy against the catalogue's label", "1")


def method_groups(root: zarr.Group) -> Iterator[tuple[str, zarr.Group]]:
    """Give the methods' groups by name."""
    for name, group in sorted(root.groups()):
        if name not in OTHER_GROUPS:
            yield name, group


def dimensions(array: Array) -> tuple[str, ...]:
    """Return the names of an array's dimensions; empty if it has none."""
    names = getattr(array.metadata, "dimension_names", None) or ()
    return tuple(str(name) for name in names)


def find_maps(root: zarr.Group, kinds: str = "f") -> dict[str, MapArray]:
    """Find the arrays with a map per object, by name.

    Parameters
    ----------
    kinds : numpy kinds of the values: ``f`` for attributions, ``iu`` for maps of classes
    """
    found = {}
    for method, group in method_groups(root):
        arrays = {name: array for name, array in sorted(group.arrays()) if _is_map(array, kinds)}
        alone = len(arrays) == 1 and kinds == "f"
        for name, array in arrays.items():
            plain = name in _PRIMARY or (alone and not set(_PRIMARY) & set(arrays))
            entry = _describe(method if plain else f"{method}_{name}", method, name, array)
            found[entry.name] = entry
    return found


def find_quantities(root: zarr.Group) -> dict[str, Quantity]:
    """Find the numbers per object that can be mapped, by name.

    These are the numbers that methods give per object, whatever the target (uncertainties), and the
    concentration of each method's map.
    """
    found = {}
    for method, group in method_groups(root):
        for name, array in sorted(group.arrays()):
            if dimensions(array) == ("object",) and array.dtype.kind == "f":
                full = name if method == _PLAIN else f"{method}_{name}"
                units = str(array.attrs.get("units", "1"))
                path = f"{method}/{name}"
                found[full] = Quantity(full, f"mean {_words(full)}", units, path)
    summary = root.get("summary")
    if isinstance(summary, zarr.Group):
        for method, group in sorted(summary.groups()):
            if isinstance(group.get("gini"), zarr.Array):
                name, words = f"concentration_{method}", f"mean concentration of {_words(method)}"
                path = f"summary/{method}/gini"
                found[name] = Quantity(name, f"{words} (Gini)", "1", path, method)
    return found


def _is_map(array: Array, kinds: str) -> bool:
    dims = dimensions(array)
    if array.dtype.kind not in kinds or dims[:1] != ("object",):
        return False
    if dims[1:-2] not in ((), ("target",), ("channel",), ("target", "channel")):
        return False
    if dims[-2:] == ("window_y", "window_x"):
        return {"window", "stride", "image_shape"} <= set(array.attrs)
    return dims[-2:] == ("y", "x")


def _describe(full: str, method: str, name: str, array: Array) -> MapArray:
    attributes: dict[str, Any] = array.attrs.asdict()
    dims = dimensions(array)
    windows = None
    if dims[-1] == "window_x":
        shape, window, stride = (
            _pair(attributes[key]) for key in ("image_shape", "window", "stride")
        )
        windows = Windows(shape, window, stride)
    return MapArray(
        name=full,
        method=method,
        path=f"{method}/{name}",
        long_name=str(attributes.get("long_name", _words(full))),
        units=str(attributes.get("units", "1")),
        targeted="target" in dims,
        windows=windows,
    )


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[-2]), int(value[-1]))


def _words(name: str) -> str:
    return name.replace("_", " ")
