"""The files of a survey's folder: listed in one pass, and found by the identifiers of objects."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import RefusedError

SUFFIXES: dict[str, tuple[str, ...]] = {
    "fits": (".fits", ".fit", ".fts", ".fits.gz", ".fits.fz"),
    "images": (".png", ".jpg", ".jpeg"),
    "npy": (".npy",),
    "hdf5": (".h5", ".hdf5", ".he5", ".hdf"),
}
"""File names that each format looks for, in any case."""

_BATCH = 65536


def list_files(root: str) -> pa.Array:
    """List the files of a folder and what is below it.

    Parameters
    ----------
    root
        Absolute path of the folder. Links are followed, but not one back to a folder above it.

    Returns
    -------
    pa.Array
        Paths relative to the root, sorted. They live in Arrow's memory: 10^6 take some 40 MB.
    """
    batches = [pa.array(batch, pa.string()) for batch in _batched(_walk(root))]
    paths = pa.chunked_array(batches, pa.string())
    return _flat(paths.take(pc.sort_indices(paths)))


def _batched(paths: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(itertools.islice(paths, _BATCH)):
        yield batch


def _walk(root: str) -> Iterator[str]:
    top = os.stat(root)
    pending = [("", frozenset({(top.st_dev, top.st_ino)}))]
    while pending:
        prefix, parents = pending.pop()
        for entry in _entries(os.path.join(root, prefix)):
            if not _is_folder(entry):
                # Arrow holds UTF-8 only: another name is listed escaped, and so found missing.
                yield (prefix + entry.name).encode("utf-8", "backslashreplace").decode()
                continue
            info = entry.stat()
            folder = (info.st_dev, info.st_ino)
            if folder not in parents:
                pending.append((prefix + entry.name + "/", parents | {folder}))


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except PermissionError:
        raise RefusedError(f"'{folder}' can't be listed; correct its permissions") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def readable_files(root: str, file_format: str) -> tuple[pa.Array, pa.Array]:
    """Return the sorted paths of the files that a format looks for, and them without suffix.

    Hidden files are left out: some systems put one beside each file that they copy.
    """
    paths = list_files(root)
    suffix = _suffix_pattern(file_format)
    hidden = pc.match_substring_regex(paths, r"(^|/)\.")
    wanted = pc.and_(pc.match_substring_regex(paths, suffix), pc.invert(hidden))
    paths = _flat(pc.filter(paths, wanted))
    return paths, pc.replace_substring_regex(paths, suffix, "")


def find_files(root: str, file_format: str, ids: pa.ChunkedArray) -> pa.Array:
    """Return for each identifier the path of the one file that is named after it.

    The name is `<id><suffix>`, in the folder or anywhere below it. The path is empty where no
    file, or more than one, has that name.
    """
    paths, stems = readable_files(root, file_format)
    names = pc.replace_substring_regex(stems, r"^.*/", "")
    nested = pc.not_equal(names, stems)
    # An identifier with slashes is looked up as a path, any other one as a bare name.
    keys = pa.chunked_array([names, pc.filter(stems, nested)])
    files = pa.chunked_array([paths, pc.filter(paths, nested)])
    named = pa.Table.from_arrays([keys, files], ["key", "path"])
    unique = named.group_by("key").aggregate([("path", "min"), ("path", "count")])
    single = unique.filter(pc.equal(unique["path_count"], 1))
    where = pc.index_in(ids, value_set=_flat(single["key"]))
    return pc.fill_null(_flat(pc.take(single["path_min"], where)), "")


def _suffix_pattern(file_format: str) -> str:
    return "(?i)(" + "|".join(re.escape(suffix) for suffix in SUFFIXES[file_format]) + ")$"


def _flat(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    combined = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if isinstance(combined, pa.ChunkedArray):
        combined = pa.concat_arrays(combined.chunks)
    return combined
