"""Reader of surveys that keep one file per object, of whatever format."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from .catalogue import Catalogue
from .memory import memory_limit
from .reader import (
    Cutout,
    Expected,
    Pixels,
    ReadFailure,
    UnreadableError,
    as_planned,
    check_stamp,
    file_stamp,
)

MAX_FILE_BYTES = 2**30
"""A larger file is not read: a cutout is never that large, and it would fill the memory."""

_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.ENXIO}


@dataclass(frozen=True)
class FileReader:
    """Read files below a folder, whole and once: what is hashed is what is decoded."""

    root: str
    """Absolute path of the survey's folder."""
    decode: Callable[[bytes], Pixels]
    """Turn a file's bytes into (band, y, x); raises `UnreadableError`, or anything else for bytes
    that it can't make sense of."""
    expected: Expected

    @property
    def bands(self) -> int | None:
        """Return the number of bands of every cutout."""
        return self.expected.bands

    @property
    def shape(self) -> tuple[int, int] | None:
        """Return height and width of every cutout."""
        return self.expected.shape

    def read(self, rows: Catalogue) -> list[Cutout | ReadFailure]:
        """Read the given rows, in their order."""
        asked = zip(rows.paths, rows.ids, rows.stamps, strict=True)
        return as_planned(rows, [self._read(path, id_, stamp) for path, id_, stamp in asked])

    def _read(self, path: str, id_: str, stamp: int) -> Cutout | ReadFailure:
        try:
            if not path:
                fact = f"no file, or more than one, is named after '{id_}': add a path column"
                raise UnreadableError("missing_file", fact)
            content = read_bytes(self.root, path, stamp)
            pixels = self.expected.conform(self._decoded(content))
        except UnreadableError as error:
            return error.failure(path or self.root)
        return Cutout(pixels, hashlib.sha256(content).hexdigest())

    def _decoded(self, content: bytes) -> Pixels:
        try:
            with memory_limit():
                return self.decode(content)
        except UnreadableError:
            raise
        except MemoryError as error:
            fact = "takes more memory to unpack than one cutout may: cut out less sky"
            raise UnreadableError("too_large", fact) from error
        except Exception as error:  # damaged bytes make parsers raise whatever there is
            fact = f"damaged: {str(error) or type(error).__name__}: fetch the file again"
            raise UnreadableError("corrupt_file", fact) from error


def read_bytes(root: str, path: str, stamp: int = 0) -> bytes:
    """Read a regular file inside a folder.

    Raises
    ------
    UnreadableError
        If there is no such file, it is none, is outside the folder, empty, too large, or not the
        one that has this stamp.
    OSError
        If the storage fails.
    """
    full = os.path.normpath(os.path.join(root, path))
    if not full.startswith(root.rstrip("/") + "/"):
        fact = "leads out of the survey's folder: move the file into it, or widen survey.path"
        raise UnreadableError("path_outside_survey", fact)
    # Without O_NONBLOCK, opening a pipe waits for a writer that may never come.
    descriptor = _open(full, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        info = os.fstat(descriptor)
        _check_regular(info)
        check_stamp(stamp, file_stamp(info))
        with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
            content = file.read()
        check_stamp(stamp, file_stamp(os.fstat(descriptor)))
        return content
    finally:
        os.close(descriptor)


def _check_regular(info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise UnreadableError("not_a_file", "is no regular file: put the cutout there")
    if info.st_size == 0:
        raise UnreadableError("empty_file", "is empty: fetch it again")
    if info.st_size > MAX_FILE_BYTES:
        fact = f"has {info.st_size} bytes, the limit is {MAX_FILE_BYTES}: cut out less sky"
        raise UnreadableError("too_large", fact)


def _open(full: str, flags: int) -> int:
    if "\0" in full:
        raise UnreadableError("missing_file", "a path can't hold a null character: correct it")
    try:
        return os.open(full, flags)
    except OSError as error:
        if error.errno in _GONE:
            fact = "there is no such file: add it, or correct the catalogue's path"
            raise UnreadableError("missing_file", fact) from error
        if error.errno in _FORBIDDEN:
            fact = f"can't be opened ({error.strerror}): correct its permissions"
            raise UnreadableError("unreadable_file", fact) from error
        raise
