"""HDF5: a file with a row for each object, or a file for each object. No link leads out of it."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from .arrays import (
    IMAGE_NAMES,
    Values,
    band_first,
    check_block,
    check_numbers,
    check_size,
    check_values,
    refused,
)
from .reader import Pixels, UnreadableError, file_stamp
from .rows import Images

_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}
"""Filters that are part of HDF5 and h5py; another one would be loaded as a plugin, as code."""
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def find_dataset(file: h5py.File, name: str | None) -> h5py.Dataset:
    """Return the dataset of images, if it is plain numbers in the file itself.

    Raises
    ------
    UnreadableError
        If it is missing, outside of the file, or of a type or filter that is not read.
    """
    candidates = IMAGE_NAMES if name is None else (name,)
    for candidate in candidates:
        dataset = _inside(file, candidate)
        if dataset is not None:
            break
    else:
        fact = f"has no dataset {' or '.join(map(repr, candidates))}: correct survey.array"
        raise UnreadableError("missing_array", fact)
    check_plain(dataset)
    check_numbers(dataset.dtype)
    return dataset


def check_plain(dataset: h5py.Dataset) -> None:
    """Refuse a dataset whose values lie in other files, or need a filter that is not HDF5's own."""
    if dataset.is_virtual or dataset.external:
        fact = f"dataset {dataset.name!r} lies in other files, which are not read: copy it"
        raise UnreadableError("outside_link", fact)
    creation = dataset.id.get_create_plist()
    for number in range(creation.get_nfilters()):
        code = creation.get_filter(number)[0]
        if code not in _FILTERS:
            fact = f"dataset {dataset.name!r} needs the HDF5 filter {code}: repack it with gzip"
            raise UnreadableError("unknown_codec", fact)


def _inside(file: h5py.File, name: str) -> h5py.Dataset | None:
    """Follow hard links only: a soft or external one could lead to any file of the machine."""
    place: Any = file
    for part in name.strip("/").split("/"):
        if not isinstance(place, h5py.Group):
            return None
        link = place.get(part, getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            fact = f"{name!r} is a link out of its place, which is not followed: copy the dataset"
            raise UnreadableError("outside_link", fact)
        place = place[part]
    return place if isinstance(place, h5py.Dataset) else None


@dataclass(frozen=True)
class Hdf5Decoder:
    """Decode one file that holds one image."""

    array: str | None = None
    bands_last: bool = False
    values: Values = "auto"

    def __call__(self, content: bytes) -> Pixels:
        """Return the image as (band, y, x)."""
        if not content.startswith(_SIGNATURE):
            fact = "is no HDF5 file, whatever its name: convert it, or correct survey.format"
            raise UnreadableError("wrong_format", fact)
        try:
            with h5py.File(io.BytesIO(content), "r") as file:
                dataset = find_dataset(file, self.array)
                check_values(dataset.dtype, self.values)
                check_size(dataset.shape)
                _check_stored(dataset, tuple(slice(0, size) for size in dataset.shape))
                return band_first(dataset[...], self.bands_last)
        except OSError as error:
            if "truncated" in str(error):
                raise UnreadableError("truncated_file", "ends early: fetch it again") from error
            raise


def _check_stored(dataset: h5py.Dataset, where: Sequence[slice]) -> None:
    """Refuse what was never written: HDF5 would fill it up, and nobody would notice."""
    if dataset.chunks is None:
        if dataset.id.get_offset() is None and dataset.id.get_storage_size() == 0:
            raise UnreadableError("missing_chunk", "its data were never written: write them again")
        return
    steps = [range(s.start // c * c, s.stop, c) for s, c in zip(where, dataset.chunks, strict=True)]
    for corner in itertools.product(*steps):
        if dataset.id.get_chunk_info_by_coord(corner).byte_offset is None:
            fact = f"its chunk at {corner} was never written: write it again"
            raise UnreadableError("missing_chunk", fact)


class Hdf5Rows:
    """The rows of one dataset (object, ...) of one file."""

    def __init__(self, path: str, array: str | None) -> None:
        """Open the file.

        Raises
        ------
        RefusedError
            If it has no such dataset that can be read row by row.
        """
        self._path = path
        with refused(path):
            self._file = h5py.File(path, "r", locking=False)
            self._images = find_dataset(self._file, array)
            if self._images.ndim not in (3, 4):
                fact = f"{self._images.name!r} has shape {self._images.shape}: (object, band, y, x)"
                raise UnreadableError("wrong_dimensions", f"{fact} is needed")
            check_size(self._images.shape[1:])
            check_block(self.block, self._images.shape[1:])
            _check_rows(self._images)

    @property
    def rows(self) -> int:
        """Return the number of objects."""
        return int(self._images.shape[0])

    @property
    def block(self) -> int:
        """Return how many rows a chunk has."""
        return int(self._images.chunks[0]) if self._images.chunks else 1

    def place(self, row: int) -> str:
        """Return the file and the row."""
        return f"{self._path}{self._images.name} row {row}"

    def read(self, start: int, stop: int) -> Images:
        """Read some rows of one chunk."""
        rest = tuple(slice(0, size) for size in self._images.shape[1:])
        _check_stored(self._images, (slice(start, stop), *rest))
        return np.asarray(self._images[start:stop])

    def stamp(self, row: int) -> int:
        """Return the stamp of the file."""
        return file_stamp(os.stat(self._path))

    def columns(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the datasets beside the images that have a number or a text for each object."""
        found: dict[str, np.ndarray[Any, Any]] = {}
        group = self._images.parent
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            dataset = group[name]
            if not isinstance(dataset, h5py.Dataset) or dataset.shape != (self.rows,):
                continue
            with refused(self._path):
                check_plain(dataset)
                if dataset.dtype.kind in "biuf":
                    found[name] = dataset[...]
                elif h5py.check_string_dtype(dataset.dtype) is not None:
                    found[name] = dataset.asstr("utf-8", "backslashreplace")[...]
        return found


def _check_rows(images: h5py.Dataset) -> None:
    """Refuse more rows than can be there: a header may declare any number, for a few bytes."""
    if images.shape[0] == 0:
        raise UnreadableError("no_image", "has no rows: there is nothing to do")
    if images.chunks is None:
        _check_stored(images, ())
        return
    declared = int(np.prod(list(_chunk_counts(images)), dtype=object))
    stored = images.id.get_num_chunks()
    if 2 * stored < declared:
        fact = f"declares {declared} chunks, of which {stored} are stored: finish writing it"
        raise UnreadableError("missing_chunk", fact)


def _chunk_counts(images: h5py.Dataset) -> Iterator[int]:
    for size, chunk in zip(images.shape, images.chunks, strict=True):
        yield -(-size // chunk)
