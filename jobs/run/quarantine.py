"""The list of objects that have no results, and why."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from cluster.text import one_line, redact
from cluster.unit import ObjectFailure

BY_PLAN = "plan"
"""In place of a unit: the object was refused before the work began."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What spreadsheets take for the beginning of a formula; the wide forms in some languages."""


def quarantine_csv(failures: Iterable[tuple[str, ObjectFailure]]) -> bytes:
    """Return the quarantine list of (unit, failure) pairs as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "unit", "code", "reason"])
    for unit, failure in failures:
        row = (failure.id, unit, failure.code, failure.reason)
        writer.writerow([_harmless(cell) for cell in row])
    return text.getvalue().encode()


def _harmless(cell: str) -> str:
    """Keep a cell on its line, without secrets, and spreadsheets from reading it as a formula."""
    text = redact(one_line(cell))
    return f"'{text}" if cell.startswith(_FORMULA) else text
