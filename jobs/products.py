"""Folders that commands make of a finished run: whole, or as they were before."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.errors
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from cluster.errors import StorageError
from cluster.place import Place, send
from cluster.remote import S3Path, remove


@contextmanager
def new_folder(place: Place) -> Iterator[Path]:
    """Give an empty folder to fill, which takes the place of an older one at the end.

    On S3 its files are sent one by one, then older ones that are not among them deleted.

    Raises
    ------
    StorageError
        If a file can't be read or written; the older folder stays as it is.
    """
    if isinstance(place, S3Path):
        older = place.below()
        with tempfile.TemporaryDirectory(prefix="occulta-") as folder:
            yield Path(folder)
            sent = set(send(Path(folder), place))
        remove([path for path in older if path not in sent])
        return
    fresh = place.with_name(f".{place.name}-{os.getpid()}")
    previous = place.with_name(f"{fresh.name}-previous")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        yield fresh
        with suppress(FileNotFoundError):
            place.replace(previous)  # whole: a kill while it is deleted must not leave half of it
        fresh.replace(place)
    except OSError as error:
        if previous.exists() and not place.exists():
            previous.replace(place)
        raise StorageError(
            f"{place}: can't be made ({error}); make the survey readable and the run folder "
            "writable, then run the same command"
        ) from error
    finally:
        for rest in (fresh, previous):
            shutil.rmtree(rest, ignore_errors=True)


def write_array(
    group: zarr.Group,
    name: str,
    values: NDArray[Any],
    dims: tuple[str, ...],
    attributes: Mapping[str, Any],
) -> None:
    """Write an array, numbers or text, as one chunk with a checksum."""
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=tuple(max(size, 1) for size in values.shape),
        dtype=str if values.dtype.kind in "OU" else values.dtype,
        fill_value={"f": np.nan, "O": "", "U": ""}.get(values.dtype.kind, 0),
        compressors=(ZstdCodec(level=3), Crc32cCodec()),
        dimension_names=dims,
        attributes=dict(attributes),
        config={"write_empty_chunks": True},
    )
    array[...] = values


def consolidate(root: zarr.Group) -> None:
    """Copy all metadata of a store to its root, for readers over a network."""
    with warnings.catch_warnings():
        # Readers without consolidated metadata open the store as well.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(root.store)
