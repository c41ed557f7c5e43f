"""Where the files of a training run's fits are."""

from __future__ import annotations

WEIGHTS, CARD, HISTORY = "weights.safetensors", "card.json", "history.csv"
"""Names of the files of a fit."""
FITS = "fits"
"""Where the fits of a run are, if there are several."""


def fit_path(number: int, fits: int) -> str:
    """Return where a fit's files are, relative to the run folder; empty for a single fit."""
    return "" if fits == 1 else f"{FITS}/{number:04d}/"
