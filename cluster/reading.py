"""Zarr stores at a place, for reading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from .place import Place
from .remote import S3Path


def zarr_store(place: Place) -> Any:  # xarray does not say that it takes a Store
    """Return what zarr and xarray open to read the store at a place."""
    return S3Reader(place) if isinstance(place, S3Path) else place


class S3Reader(Store):
    """A Zarr store on S3, for reading; an object is missing when a list says so, not a reply.

    To zarr, a shard that is not there is full of its fill value: one false reply would turn
    results into NaN.
    """

    supports_writes = False
    supports_deletes = False
    supports_partial_writes = False
    supports_listing = True

    def __init__(self, root: S3Path) -> None:
        super().__init__(read_only=True)
        self.root = root

    def __eq__(self, other: object) -> bool:
        return isinstance(other, S3Reader) and self.root == other.root

    def __str__(self) -> str:
        return str(self.root)

    def __repr__(self) -> str:
        return f"S3Reader({str(self.root)!r})"

    def with_read_only(self, read_only: bool = False) -> Store:
        """Return the store itself, which can only be read."""
        if not read_only:
            raise ValueError(f"{self.root}: is open for reading only")
        return self

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read an object or a part of it; None if it is not there."""
        try:
            data = await asyncio.to_thread(_read, self.root / key, byte_range)
        except FileNotFoundError:
            return None
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Read parts of objects."""
        return list(await asyncio.gather(*(self.get(k, prototype, r) for k, r in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Tell whether there is such an object."""
        return await asyncio.to_thread((self.root / key).is_file)

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse to write."""
        raise ValueError(f"{self.root / key}: is open for reading only")

    async def delete(self, key: str) -> None:
        """Refuse to delete."""
        raise ValueError(f"{self.root / key}: is open for reading only")

    async def list(self) -> AsyncIterator[str]:
        """List all keys."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """List all keys below a prefix."""
        found = await asyncio.to_thread((self.root / prefix).below)
        for place in found:
            yield place.key.removeprefix(f"{self.root.key}/")

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """List the names directly below a prefix."""
        found = await asyncio.to_thread(lambda: list((self.root / prefix).iterdir()))
        for place in found:
            yield place.name


def _read(place: S3Path, part: ByteRequest | None) -> bytes:
    if part is None:
        return place.read_bytes()
    if isinstance(part, RangeByteRequest):
        return place.read_range(part.start, part.end)
    if isinstance(part, OffsetByteRequest):
        return place.read_range(part.offset, None)
    assert isinstance(part, SuffixByteRequest)
    return place.read_range(None, part.suffix)
