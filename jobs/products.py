"""Folders that commands make of a finished run: whole, or as they were before."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zarr
import zarr.errors

from cluster.errors import StorageError


@contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """Give an empty folder to fill, which takes the place of an older one at the end.

    Raises
    ------
    StorageError
        If a file can't be read or written; the older folder stays as it is.
    """
    fresh = place.with_name(f".{place.name}-{os.getpid()}")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        yield fresh
        shutil.rmtree(place, ignore_errors=True)
        fresh.replace(place)
    except OSError as error:
        raise StorageError(
            f"{place}: can't be made ({error}); make the survey readable and the run folder "
            "writable, then run the same command"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def consolidate(root: zarr.Group) -> None:
    """Copy all metadata of a store to its root, for readers over a network."""
    with warnings.catch_warnings():
        # Readers without consolidated metadata open the store as well.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(root.store)
