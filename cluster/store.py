"""The result store: a Zarr v3 hierarchy whose shards are written whole, each by one unit."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from attribution.arrays import ArraySpec, round_mantissa

from .place import Place, write_at
from .unit import ShardReceipt, UnitKey

_CHUNK_BYTES = 1 << 20
_CHUNK_OBJECTS = 256
_CODECS = (BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"), Crc32cCodec())
_BESIDE = "../"
_TEXT_CODECS = (ZstdCodec(level=3), Crc32cCodec())


def create_array(
    group: zarr.Group,
    path: str,
    spec: ArraySpec,
    objects: int,
    unit_objects: int,
    axis: str = "object",
) -> None:
    """Create one empty result array: floats are NaN, integers -1, flags False until written.

    ``axis`` names its first dimension.
    """
    row_bytes = max(1, int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize)
    attributes = {
        "long_name": spec.long_name,
        "units": spec.units,
        **({"convention": spec.convention} if spec.convention else {}),
        **spec.attributes,
    }
    is_text = spec.dtype == "str"
    group.create_array(
        path,
        shape=(objects, *spec.shape),
        shards=(unit_objects, *spec.shape),
        chunks=(_chunk_objects(unit_objects, row_bytes), *spec.shape),
        dtype=str if is_text else spec.dtype,
        fill_value=_fill_value(spec.dtype),
        compressors=_TEXT_CODECS if is_text else _CODECS,
        serializer="auto" if is_text else BytesCodec(endian="little"),
        dimension_names=(axis, *spec.dims),
        attributes=attributes,
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},
    )


def shard_at(store: Place, path: str) -> Place:
    """Return where a file of a unit is; those that are no arrays are beside the store."""
    beside = path.removeprefix(_BESIDE)
    return store / path if beside == path else store.parent / beside


class ShardWriter:
    """Writes the shards of units into a store whose template exists.

    Parameters
    ----------
    root : where the Zarr store is
    template : the arrays by their path
    """

    def __init__(self, root: Place, template: Mapping[str, ArraySpec]) -> None:
        self._root = root
        self._template = template
        self._scratch = {path: _Scratch(root / path) for path in template}

    def write(
        self,
        key: UnitKey,
        arrays: Mapping[str, NDArray[Any]],
        files: Mapping[str, bytes] = MappingProxyType({}),
    ) -> tuple[ShardReceipt, ...]:
        """Write a unit's shards and files, each durable before the next is begun.

        Parameters
        ----------
        key : the rows that the arrays hold
        arrays : by path, exactly those of the template
        files : by path in the run folder, which the store is in

        Returns
        -------
        one receipt per shard, in the template's order, then one per file
        """
        assert arrays.keys() == self._template.keys(), arrays.keys() ^ self._template.keys()
        receipts = []
        for path, spec in self._template.items():
            data = np.asarray(arrays[path])
            expected = (key.stop - key.start, *spec.shape)
            assert data.shape == expected, f"{path}: {data.shape}, expected {expected}"
            data = data.astype(object if spec.dtype == "str" else spec.dtype)
            if spec.is_map:
                data = round_mantissa(data)
            name, encoded = self._scratch[path].encode(key, data)
            receipts.append(self._write(f"{path}/{name}", encoded))
        receipts += [self._write(f"{_BESIDE}{path}", data) for path, data in files.items()]
        return tuple(receipts)

    def _write(self, path: str, data: bytes) -> ShardReceipt:
        # Replaced in one step: whoever else writes this unit, now or later, leaves the same file,
        # and at no time none.
        write_at(shard_at(self._root, path), data)
        return ShardReceipt(path, hashlib.sha256(data).hexdigest(), len(data))


class _Scratch:
    """Encodes shards in memory, so that their bytes can be hashed and written durably by us."""

    def __init__(self, folder: Place) -> None:
        self._store = MemoryStore({})
        metadata = (folder / "zarr.json").read_bytes()
        buffer = zarr.core.buffer.default_buffer_prototype().buffer.from_bytes(metadata)
        asyncio.run(self._store.set("zarr.json", buffer))
        # open_array(config=...) has no effect (zarr 3.1): a shard of fill values would not be kept.
        array = zarr.open_array(self._store, mode="r+")
        self._array = array.with_config({"write_empty_chunks": True})

    def encode(self, key: UnitKey, data: NDArray[Any]) -> tuple[str, bytes]:
        """Return the shard's file name and bytes."""
        shards = self._array.shards
        assert shards is not None
        assert key.start % shards[0] == 0, f"{key} does not begin at a shard"
        self._array[key.start : key.stop] = data
        number = key.start // shards[0]
        name = ".".join(["c", str(number), *["0"] * (data.ndim - 1)])
        encoded = self._store._store_dict.pop(name)
        return name, encoded.to_bytes()


def _chunk_objects(unit_objects: int, row_bytes: int) -> int:
    """Return the largest divisor of the shard that keeps a chunk small enough to read alone."""
    most = max(1, min(_CHUNK_OBJECTS, _CHUNK_BYTES // row_bytes, unit_objects))
    return next(n for n in range(most, 0, -1) if unit_objects % n == 0)


def _fill_value(dtype: str) -> float | int | bool | str:
    kind = np.dtype(dtype).kind
    if kind == "U":
        return ""
    if kind == "f":
        return float("nan")
    return False if kind == "b" else -1 if kind == "i" else 0
