"""The files of a survey's folder: listed in one pass, and found by the identifiers of objects."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import RefusedError

SUFFIXES: dict[str, tuple[str, ...]] = {
    "fits": (".fits", ".fit", ".fts", ".fits.gz", ".fits.fz"),
    "images": (".png", ".jpg", ".jpeg"),
}
"""File names that each format looks for, in any case."""

_SCHEMA = pa.schema([("path", pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64())])
_BATCH = 65536


def list_files(root: str, *, stat: bool = False) -> pa.Table:
    """List a folder and what is below it.

    Parameters
    ----------
    root
        Absolute path of the folder. Links are followed, but not one back to a folder above it.
    stat
        Whether to look up size and time of modification; both are 0 otherwise.

    Returns
    -------
    pa.Table
        Columns path (relative to the root), size [bytes], mtime_ns; sorted by path. A dangling
        link has size -1. The list lives in Arrow's memory: 10^6 files take some 60 MB.
    """
    batches = []
    files: list[tuple[str, int, int]] = []
    for entry, path in _walk(root):
        files.append((path, *_size_and_time(entry, stat)))
        if len(files) == _BATCH:
            batches.append(_batch(files))
            files = []
    batches.append(_batch(files))
    return pa.Table.from_batches(batches).sort_by("path").combine_chunks()


def _batch(files: list[tuple[str, int, int]]) -> pa.RecordBatch:
    columns = zip(*files, strict=True) if files else ((), (), ())
    return pa.record_batch(list(map(list, columns)), schema=_SCHEMA)


def _walk(root: str) -> Iterator[tuple[os.DirEntry[str], str]]:
    top = os.stat(root)
    pending = [("", frozenset({(top.st_dev, top.st_ino)}))]
    while pending:
        prefix, parents = pending.pop()
        for entry in _entries(os.path.join(root, prefix)):
            if not _is_folder(entry):
                # Arrow holds UTF-8 only: another name is listed escaped, and so found missing.
                yield entry, (prefix + entry.name).encode("utf-8", "backslashreplace").decode()
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


def _size_and_time(entry: os.DirEntry[str], stat: bool) -> tuple[int, int]:
    if not stat:
        return 0, 0
    try:
        info = entry.stat()
    except OSError:
        return -1, 0
    return info.st_size, info.st_mtime_ns


def readable_files(root: str, file_format: str) -> tuple[pa.Array, pa.Array]:
    """Return the sorted paths of the files that a format looks for, and them without suffix.

    Hidden files are left out: some systems put one beside each file that they copy.
    """
    paths = list_files(root)["path"]
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
