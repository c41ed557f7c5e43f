"""Where runs are: folders of this machine and prefixes of S3 buckets, by one type and one syntax.

What can be said of a folder with the methods of `pathlib.Path` is said of a prefix in the same
way; the rest is here.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from .durable import sync_tree, write_file
from .errors import OccultaError
from .remote import SCHEME, S3Path, remove

Place: TypeAlias = Path | S3Path

_NAME = re.compile(r"[A-Za-z0-9._=/-]+")
_AT_ONCE = 16
"""Objects that are sent at the same time."""


def open_place(text: str | Place) -> Place:
    """Return the place that a user names.

    Raises
    ------
    OccultaError
        If it is an address of another kind than s3://bucket/prefix.
    """
    if not isinstance(text, str):
        return text
    if text.startswith(SCHEME):
        place = S3Path(text)
        if not _NAME.fullmatch(place.bucket) or not _NAME.fullmatch(place.key):
            raise OccultaError(
                f"{text}: names no place in a bucket; write s3://bucket/prefix, "
                "of letters, digits, and ._=-/"
            )
        return place
    if "://" in text:
        raise OccultaError(f"{text}: is no place for a run; give a folder or s3://bucket/prefix")
    return Path(text).expanduser().absolute()


def write_at(place: Place, data: bytes) -> None:
    """Replace a file or an object, durably: the old content or the new one, nothing between.

    Raises
    ------
    OSError, StorageError
        If it can't be written; the old content, if any, is then unchanged.
    """
    if isinstance(place, S3Path):
        place.write_bytes(data)
    else:
        write_file(place, data)


def clear(place: Place) -> None:
    """Delete all that is below a place."""
    if isinstance(place, S3Path):
        remove(place.below())
    else:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def local_folder(place: Place) -> Iterator[Path]:
    """Give a folder of this machine to fill or change, whose files are then durable at ``place``.

    For a prefix it is a temporary one, empty at first, and what is in it at the end is sent.
    """
    if isinstance(place, Path):
        place.mkdir(parents=True, exist_ok=True)
        yield place
        sync_tree(place)
        return
    with tempfile.TemporaryDirectory(prefix="occulta-") as folder:
        yield Path(folder)
        send(Path(folder), place)


def send(folder: Path, place: S3Path) -> list[S3Path]:
    """Write all files of a folder as objects below a prefix, and return these."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())

    def put(path: Path) -> S3Path:
        target = place / path.relative_to(folder).as_posix()
        target.write_bytes(path.read_bytes())
        return target

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(put, files))
