"""A digest of a table's content that does not depend on how it is chunked in memory."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...


def table_digest(table: pa.Table) -> str:
    """Return the sha256 over column names, types and values, in column and row order.

    Columns are numbers, booleans or strings, without nulls.
    """
    digest = hashlib.sha256(f"{table.num_rows} {table.num_columns}\n".encode())
    for name in table.column_names:
        column = table.column(name)
        assert column.null_count == 0, name
        encoded = name.encode()
        digest.update(f"{len(encoded)} {column.type}\n".encode() + encoded)
        if pa.types.is_string(column.type):
            _update_text(digest, column)
        else:
            _update_numbers(digest, column)
    return digest.hexdigest()


def _update_numbers(digest: _Hash, column: pa.ChunkedArray) -> None:
    if pa.types.is_boolean(column.type):
        column = pc.cast(column, pa.uint8())
    for chunk in column.chunks:
        values = np.ascontiguousarray(chunk.to_numpy())
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        digest.update(little.view(np.uint8).data)


def _update_text(digest: _Hash, column: pa.ChunkedArray) -> None:
    # All lengths, then all bytes: ("ab", "c") and ("a", "bc") differ, whatever the chunks are.
    _update_numbers(digest, pc.binary_length(column))
    for chunk in column.chunks:
        if len(chunk) == 0:
            continue
        _, offsets_buffer, data = chunk.buffers()
        offsets = np.frombuffer(offsets_buffer, dtype=np.int32)
        start, stop = offsets[chunk.offset], offsets[chunk.offset + len(chunk)]
        if stop > start:
            digest.update(memoryview(data)[start:stop])
