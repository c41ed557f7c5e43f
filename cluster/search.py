"""Which objects make a unit fail: found by halving, one probe after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .unit import LeftOut, UnitKey

FAILED, DIED, HUNG = "computation_failed", "replica_died", "no_answer"
"""Documented codes of objects that are left out: what happens to a replica that computes one."""

_CONFIRMATIONS = 2
"""How often an object alone must fail before it is called guilty."""
_MOST_GUILTY = 32


@dataclass(frozen=True, slots=True)
class Search:
    """A search among the rows of one unit; a value, each answer gives the next one.

    The first probe has no row at all: if that fails, the objects are not the cause.
    """

    suspects: tuple[range, ...]
    """Rows that are still to be probed; the first is the probe at hand."""
    guilty: tuple[LeftOut, ...] = ()
    failed: int = 0
    """How often the probe at hand failed."""
    most: int = 1
    """More guilty objects than this, and the objects are not the cause."""
    vain: bool = False
    """The objects are not the cause."""

    @classmethod
    def among(cls, key: UnitKey) -> Search:
        """Begin to search a unit, of which at most a quarter can be guilty."""
        rows = range(key.start, key.stop)
        most = min(_MOST_GUILTY, max(1, len(rows) // 4))
        return cls((range(0), *_halves(rows)), most=most)

    @property
    def probe(self) -> range | None:
        """The rows to compute next; None at the end of the search."""
        return self.suspects[0] if self.suspects and not self.vain else None

    def innocent(self) -> Search:
        """Take note that the probe went well."""
        return replace(self, suspects=self.suspects[1:], failed=0)

    def suspicious(self, code: str, reason: str) -> Search:
        """Take note that the probe failed, as ``code`` and ``reason`` tell."""
        rows, *others = self.suspects
        failed = self.failed + 1
        if len(rows) > 1:
            return replace(self, suspects=(*_halves(rows), *others), failed=0)
        if failed < _CONFIRMATIONS:
            return replace(self, failed=failed)
        if not rows or len(self.guilty) == self.most:
            return replace(self, vain=True)
        found = LeftOut(rows[0], code, reason)
        return replace(self, suspects=tuple(others), guilty=(*self.guilty, found), failed=0)


def _halves(rows: range) -> tuple[range, ...]:
    middle = len(rows) // 2
    return (rows[:middle], rows[middle:]) if middle else (rows,)
