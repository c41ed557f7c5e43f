"""One sentence that says which method's maps to trust, from the numbers of the measures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .readings import readable
from .statistics import Estimate, differ

SANITY = "Model randomisation"
MAX_KEPT = 0.5
"""A map whose ranks correlate more than this with those of a random network hardly shows what the
network learned (Adebayo 2018)."""


@dataclass(frozen=True)
class Column:
    """One measure of quality."""

    title: str
    note: str
    good: Literal["low", "high"] | None
    """Which values are good, if that is known."""
    scores: Mapping[str, Estimate]
    """Mean and standard error over the objects, by method."""

    @property
    def best(self) -> str | None:
        """The method with the best value; None if there is nothing to choose from."""
        known = {name: s.mean for name, s in self.scores.items() if math.isfinite(s.mean)}
        if self.good is None or len(known) < 2:
            return None
        return (min if self.good == "low" else max)(known, key=lambda name: known[name])

    def shortfall(self, name: str) -> float:
        """Return by how many standard errors a method is behind the best; 0 if at most 2."""
        best = self.best
        if best is None or name not in self.scores:
            return 0.0
        one, other = self.scores[name], self.scores[best]
        if not differ(one, other):
            return 0.0
        error = math.hypot(one.error, other.error)
        return abs(one.mean - other.mean) / error if error > 0 else math.inf


def reading(run: str, methods: Sequence[str], columns: Sequence[Column]) -> str:
    """Say which method to trust, and for each other one the measure that speaks most against it.

    The most trusted ones are, of those that the randomisation of the model changes, those that are
    the best or within two standard errors of it in most measures.
    """
    usable = [column for column in columns if column.best is not None]
    if not usable:
        return f"{run}: one method alone is judged, so there is nothing to compare it with."
    stuck = {name: kept for name in methods if (kept := _kept(columns, name)) > MAX_KEPT}
    wins = {
        name: sum(name in c.scores and c.shortfall(name) == 0 for c in usable) for name in methods
    }
    able = [name for name in methods if name not in stuck]
    most = max((wins[name] for name in able), default=0)
    top = [name for name in able if wins[name] == most > 0]
    parts = [_praise(top, most, len(usable)) if top else "no method deserves trust"]
    parts += _reasons([name for name in able if name not in top], usable)
    parts += [
        f"{readable(name)} hardly depends on what the network learned: its ranks still correlate "
        f"by {kept:.2f} when all weights are random"
        for name, kept in stuck.items()
    ]
    return f"{run}: {'; '.join(parts)}."


def _kept(columns: Sequence[Column], name: str) -> float:
    scores = next((column.scores for column in columns if column.title == SANITY), {})
    return scores[name].mean if name in scores else 0.0


def _praise(top: Sequence[str], wins: int, measures: int) -> str:
    those = "deserves most trust," if len(top) == 1 else "deserve most trust, each"
    return (
        f"{_listed(top)} {those} the best or within 2 standard errors of the best in {wins} of "
        f"{measures} measures"
    )


def _reasons(others: Sequence[str], usable: Sequence[Column]) -> list[str]:
    """Give for each measure the methods that it speaks most against."""
    against: dict[int, list[str]] = {}
    even = []
    for name in others:
        worst = max(range(len(usable)), key=lambda c: usable[c].shortfall(name))
        if usable[worst].shortfall(name) > 0:
            against.setdefault(worst, []).append(name)
        else:
            even.append(name)
    parts = []
    for number, names in against.items():
        column = usable[number]
        best = column.scores[column.best or ""]
        losers = [f"{readable(name)} ({column.scores[name]})" for name in names]
        parts.append(
            f"{', '.join(losers)} fall{'s' if len(names) == 1 else ''} short most in "
            f"{column.title[0].lower()}{column.title[1:]} (best {best})"
        )
    if even:
        parts.append(f"fewer measures judge {_listed(even)}, and none speaks against")
    return parts


def _listed(names: Sequence[str]) -> str:
    words = [readable(name) for name in names]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
