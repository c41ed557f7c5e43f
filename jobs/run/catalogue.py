"""The catalogue inside a run: written once by the driver, read in pieces by replicas."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from cluster.place import Place, local_folder
from cluster.reading import zarr_store

from ..survey import Catalogue

PENDING, COMPLETE, QUARANTINED = 0, 1, 2
"""Values of the store's ``status`` array."""

_CHUNK = 65536
_UNITS = {"ra": "deg", "dec": "deg"}
_LONG_NAMES = {"ra": "right ascension (ICRS)", "dec": "declination (ICRS)"}


def write_catalogue(root: zarr.Group, catalogue: Catalogue) -> None:
    """Write every column as an array of the group ``catalogue``, in chunks."""
    group = root.create_group("catalogue")
    for name in catalogue.table.column_names:
        column = catalogue.table[name]
        is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        array = group.create_array(
            name,
            shape=(len(catalogue),),
            chunks=(min(_CHUNK, len(catalogue)),),
            dtype=str if is_text else column.type.to_pandas_dtype(),
            compressors=(ZstdCodec(level=3), Crc32cCodec()),
            dimension_names=("object",),
            attributes={
                "long_name": _LONG_NAMES.get(name, name.replace("_", " ")),
                **({"units": _UNITS[name]} if name in _UNITS else {}),
            },
            config={"write_empty_chunks": True},
        )
        for start in range(0, len(catalogue), _CHUNK):
            piece = column.slice(start, _CHUNK).to_numpy()
            array[start : start + len(piece)] = piece


def write_status(store: Place, values: NDArray[np.uint8]) -> None:
    """Write the status of all objects."""
    place = store / "status"
    metadata = (place / "zarr.json").read_bytes()
    with local_folder(place) as folder:
        (folder / "zarr.json").write_bytes(metadata)
        zarr.open_array(folder, mode="r+")[:] = values


class StoredCatalogue:
    """Catalogue rows and their status, from the store of a run."""

    def __init__(self, store: Place) -> None:
        root = zarr.open_group(zarr_store(store), mode="r")
        self._status = root["status"]
        group = root["catalogue"]
        assert isinstance(group, zarr.Group)
        self._columns = dict(group.arrays())

    def read(self, start: int, stop: int) -> tuple[Catalogue, NDArray[np.bool_]]:
        """Read some rows, and tell which of them the plan has quarantined already."""
        assert isinstance(self._status, zarr.Array)
        table = pa.table(
            {name: _column(np.asarray(array[start:stop])) for name, array in self._columns.items()}
        )
        refused = np.asarray(self._status[start:stop]) == QUARANTINED
        return Catalogue.from_table(table), refused


def _column(values: NDArray[np.generic]) -> pa.Array:
    if values.dtype.kind in "OT":
        return pa.array(values.astype(object).tolist(), pa.string())
    return pa.array(values)
