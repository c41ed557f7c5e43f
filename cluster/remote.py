"""Objects on S3, named and used like files: whole or absent, checked when read, tried again.

A path holds no credentials: each process reads its own from the environment (``AWS_*``) when it
first needs them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from .errors import OccultaError, StorageError, VerificationError

if TYPE_CHECKING:
    from obstore.store import S3Store

T = TypeVar("T")

SCHEME = "s3://"
_RETRY_SECONDS = "OCCULTA_STORAGE_SECONDS"
"""Variable: for how long a request that fails is tried again."""
_PATIENCE = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE, _DAMAGE_PAUSE = 0.05, 5.0, 0.5
_REQUEST = timedelta(seconds=30)
"""How long one request may take."""
_SHA256 = "sha256"
"""Under this name each object carries the digest of its content."""
_REFUSED = re.compile(r"status code: 40[13]\b")
_DAMAGED_REPLIES = 8
"""After which it is the object that is damaged, not what is between."""
_MANY = 1000
"""Objects that one request lists or deletes."""


class DamagedReplyError(Exception):
    """What arrived is not what was stored."""


class S3Path:
    """The name of an object, or of all objects below it; has the methods of `pathlib.Path`.

    Parameters
    ----------
    url : s3://bucket/prefix

    Raises
    ------
    StorageError
        From each method that asks the server: at once if it refuses the credentials or has no
        such bucket, else when it can't be reached for a while.
    FileNotFoundError
        From reading an object that is not there.
    """

    def __init__(self, url: str) -> None:
        bucket, _, key = url.removeprefix(SCHEME).partition("/")
        self.bucket = bucket
        self.key = "/".join(part for part in key.split("/") if part)

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}".rstrip("/")

    def __repr__(self) -> str:
        return f"S3Path({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, S3Path) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str) -> Self:
        return type(self)(f"{self}/{name}")

    @property
    def name(self) -> str:
        """The part after the last slash."""
        return self.key.rpartition("/")[2] or self.bucket

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return self.name.rpartition(".")[0] or self.name

    @property
    def parent(self) -> Self:
        """The path without its last part."""
        return type(self)(f"{SCHEME}{self.bucket}/{self.key.rpartition('/')[0]}")

    def absolute(self) -> Self:
        """Return itself."""
        return self

    def exists(self) -> bool:
        """Tell whether there is an object of this name, or one below it."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Tell whether there is an object of this name; a list says so, which does not err."""
        # Begin right before it: a slash, which comes before 0, can't stand there.
        last = chr(ord(self.key[-1]) - 1).replace("/", ".")
        before = f"{self.key[:-1]}{last}~"
        return any(meta["path"] == self.key for meta in self._list(self.parent.key, before, 1))

    def is_dir(self) -> bool:
        """Tell whether there are objects below this name."""
        return any(True for _ in self._list(self.key, None, 1))

    def iterdir(self) -> Iterator[Self]:
        """Give what is directly below this name, in order."""
        import obstore  # noqa: PLC0415 - local runs need none

        found = self._ask(lambda: obstore.list_with_delimiter(_client(self.bucket), self.key))
        names = [meta["path"] for meta in found["objects"]] + list(found["common_prefixes"])
        for key in sorted(names):
            yield type(self)(f"{SCHEME}{self.bucket}/{key}")

    def below(self) -> list[Self]:
        """List all objects below this name, in order."""
        keys = sorted(meta["path"] for meta in self._list(self.key, None, None))
        return [type(self)(f"{SCHEME}{self.bucket}/{key}") for key in keys]

    def modified(self) -> datetime:
        """Tell when the object was written, by the server's clock."""
        import obstore  # noqa: PLC0415 - as above

        meta = self._ask_for_known(lambda: obstore.head(_client(self.bucket), self.key))
        when: datetime = meta["last_modified"]
        return when.astimezone(UTC)

    def read_bytes(self) -> bytes:
        """Read a whole object, checked by the digest that it carries."""
        import obstore  # noqa: PLC0415 - as above

        def get() -> bytes:
            reply = obstore.get(_client(self.bucket), self.key)
            data = bytes(reply.bytes())
            expected = reply.attributes.get(_SHA256)
            if len(data) != reply.meta["size"] or expected not in (None, _digest(data)):
                raise DamagedReplyError("its content is not what was stored")
            return data

        return self._ask_for_known(get)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Read a whole object as text."""
        return self.read_bytes().decode(encoding)

    def read_range(self, start: int | None, stop: int | None) -> bytes:
        """Read some bytes of an object; without ``start``, the last ``stop`` ones.

        They are not checked: that is left to checksums inside them.
        """
        import obstore  # noqa: PLC0415 - as above

        def get() -> bytes:
            wanted: Any = {"suffix": stop} if start is None else {"offset": start}
            if start is not None and stop is not None:
                wanted = (start, stop)
            reply = obstore.get(_client(self.bucket), self.key, options={"range": wanted})
            return bytes(reply.bytes())

        return self._ask_for_known(get)

    def write_bytes(self, data: bytes) -> None:
        """Replace an object; afterwards the server has the new content, or still the old one."""
        import obstore  # noqa: PLC0415 - as above

        attributes = {_SHA256: _digest(data)}

        def put() -> None:
            client = _client(self.bucket)
            with _writing():
                done = obstore.put(
                    client, self.key, data, attributes=attributes, use_multipart=False
                )
            self._check_arrived(data, done["e_tag"])

        self._ask(put)

    def create(self, data: bytes) -> None:
        """Write an object that is not there yet.

        The content should tell who wrote it: when a reply is lost, an object that has it already
        is taken for one's own.

        Raises
        ------
        FileExistsError
            If there is one with other content.
        """
        import obstore  # noqa: PLC0415 - as above

        attributes = {_SHA256: _digest(data)}

        def put() -> None:
            client = _client(self.bucket)
            with _writing():
                obstore.put(
                    client,
                    self.key,
                    data,
                    attributes=attributes,
                    mode="create",
                    use_multipart=False,
                )

        try:
            self._ask(put)
        except FileExistsError:
            if self.read_bytes() != data:
                raise

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete an object; one that is not there is no error, as on the server."""
        remove([self])

    def _check_arrived(self, data: bytes, e_tag: str | None) -> None:
        """Make sure that the server has what was sent: most say so by its MD5, else it is read."""
        if (e_tag or "").strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest():
            return
        if self.read_bytes() != data:
            raise DamagedReplyError("its content is not what was sent")

    def _list(self, prefix: str, offset: str | None, most: int | None) -> list[Any]:
        import obstore  # noqa: PLC0415 - as above

        def get() -> list[Any]:
            found: list[Any] = []
            pages = obstore.list(
                _client(self.bucket), prefix or None, offset=offset, chunk_size=most or _MANY
            )
            for page in pages:
                found.extend(page)
                if most is not None:
                    break
            return found

        return self._ask(get)

    def _ask_for_known(self, request: Callable[[], T]) -> T:
        """Ask for an object; that it is not there is believed when a list says so, too."""
        try:
            return self._ask(request)
        except FileNotFoundError:
            if not self.is_file():
                raise

        def again() -> T:
            try:
                return request()
            except FileNotFoundError as error:
                raise DamagedReplyError("listed, and said not to be there") from error

        return self._ask(again)

    def _ask(self, request: Callable[[], T]) -> T:
        return _persist(str(self), request)


@contextmanager
def _writing() -> Iterator[None]:
    """Have an object that is said not to be there while it is written asked for again."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedReplyError(str(error)) from error


def remove(places: list[S3Path]) -> None:
    """Delete objects of one bucket, many by one request."""
    import obstore  # noqa: PLC0415 - as above

    for start in range(0, len(places), _MANY):
        some = places[start : start + _MANY]
        keys = [place.key for place in some]
        _persist(str(some[0]), partial(obstore.delete, _client(some[0].bucket), keys))


def _persist(place: str, request: Callable[[], T]) -> T:
    """Ask until there is an answer; what asking again can't change is told at once."""
    from obstore import exceptions  # noqa: PLC0415 - as above

    damaged = 0
    end = time.monotonic() + float(os.environ.get(_RETRY_SECONDS, _PATIENCE))
    pause = _FIRST_PAUSE
    while True:
        try:
            return request()
        except FileNotFoundError as error:
            _check_bucket(place, error)
            raise FileNotFoundError(errno.ENOENT, "no such object", place) from error
        except OccultaError:
            raise
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
            raise FileExistsError(errno.EEXIST, "the object exists", place) from error
        except (exceptions.BaseError, DamagedReplyError, OSError) as error:
            _check_bucket(place, error)
            _check_access(place, error)
            damaged += isinstance(error, DamagedReplyError)
            if damaged == _DAMAGED_REPLIES:
                raise VerificationError(
                    f"{place}: {error}, each of {damaged} times that it was asked for; restore it, "
                    "or see what `occulta verify` says of its run"
                ) from error
            if time.monotonic() + pause > end:
                raise StorageError(
                    f"{place}: the server does not answer as it should ({_first_line(error)}); "
                    "check AWS_ENDPOINT_URL and the network, and run again"
                ) from error
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, _DAMAGE_PAUSE if damaged else _LONGEST_PAUSE)


def _check_access(place: str, error: Exception) -> None:
    # A refused list is no PermissionDeniedError, as a refused read is (obstore 0.12).
    if _REFUSED.search(str(error).partition("\n")[0]):
        raise StorageError(
            f"{place}: the server refuses the credentials ({_first_line(error)}); mend the access "
            "or the AWS_* variables, and run again"
        ) from error


def _check_bucket(place: str, error: Exception) -> None:
    if "NoSuchBucket" in str(error):
        raise StorageError(f"{place}: there is no such bucket; create it") from error


@cache
def _client(bucket: str) -> S3Store:
    """Open a bucket, once for a process: what the environment says goes nowhere else."""
    from obstore.store import S3Store  # noqa: PLC0415 - as above

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    return S3Store(
        bucket,
        # Here, requests are tried again by `_persist`, which also knows what damage is.
        retry_config={"max_retries": 0, "retry_timeout": _REQUEST},
        client_options={
            "timeout": _REQUEST,
            "connect_timeout": timedelta(seconds=5),
            "allow_http": endpoint.startswith("http://"),
        },
    )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rpartition(" - ")[2][:120]
