"""The names of pieces of work and of what came of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ObjectFailure:
    """Why one object could not be explained; its neighbours are not affected."""

    index: int
    """Row of the object in the run's catalogue."""
    id: str
    """The object's identifier, as the catalogue gives it."""
    code: str
    """A documented error code, such as ``truncated_file``."""
    reason: str
    """One line: what is wrong, in which file, and how to mend it."""
