"""Where the files of a training run's fits are."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.place import Place, write_at

WEIGHTS, CARD, HISTORY = "weights.safetensors", "card.json", "history.csv"
"""Names of the files of a fit."""
FITS = "fits"
"""Where the fits of a run are, if there are several."""


def fit_path(number: int, fits: int) -> str:
    """Return where a fit's files are, relative to the run folder; empty for a single fit."""
    return "" if fits == 1 else f"{FITS}/{number:04d}/"


@dataclass(frozen=True)
class FitFiles:
    """Where a fit keeps its checkpoint and history, on disk or on S3."""

    run: Place
    path: str
    """As `fit_path` gives it."""

    def __str__(self) -> str:
        return f"{self.run}/{self.path}".rstrip("/")

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None if there is none."""
        try:
            return (self.run / f"{self.path}{name}").read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Replace a file, whole or not at all."""
        write_at(self.run / f"{self.path}{name}", content)
