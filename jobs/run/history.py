"""How far a training run is: the rows of its history."""

from __future__ import annotations

from cluster.place import Place

HISTORY = "history.csv"
"""One row per epoch that is done; written anew, whole, after each."""


def epochs_done(run: Place) -> int:
    """Count the epochs that are done, from the run folder alone."""
    try:
        rows = (run / HISTORY).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return 0
    return max(0, len(rows) - 1)
