"""A bound on the memory that reading one untrusted file may take."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

READ_BYTES = 3 << 30
"""What reading and unpacking one cutout, or one chunk of them, may take: the largest file that is
allowed, once more unpacked, and its pixels twice."""

_STATM = Path("/proc/self/statm")


@contextmanager
def memory_limit(more: int = READ_BYTES) -> Iterator[None]:
    """Let this process allocate at most so many bytes more, and raise `MemoryError` beyond.

    Parsers check what a file declares before they allocate; this is for what they can't know, such
    as a stream that unpacks to more than it says. The limit is relative to what the process holds,
    so networks and GPU contexts don't count. Systems other than Linux have no such limit.
    """
    if not _STATM.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(_STATM.read_bytes().split()[5]) * resource.getpagesize() + more
    bounds = [bound for bound in (limit, soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
