"""What time it is: for people to read, never to decide what a run holds. Clocks may be wrong."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> datetime:
    """Return the time of this machine, in UTC."""
    return datetime.fromtimestamp(time.time(), UTC)


def timestamp() -> str:
    """Return the time of this machine in UTC as ISO 8601, to the millisecond."""
    return now().isoformat(timespec="milliseconds")
