"""How far the fits of a training run are: the rows of their histories."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from cluster.errors import OccultaError
from cluster.events import EpochEnded, Subscriber
from cluster.place import Place

from ..work.fit_files import HISTORY, fit_path

_PERIOD = 0.5
"""Seconds between two looks."""


def epochs_done(run: Place, fits: int) -> list[int]:
    """Count the epochs that each fit has done, from the run folder alone."""
    return [len(_rows(run, number, fits)) for number in range(fits)]


class EpochWatch:
    """Tells of epochs, which fits write down wherever they are made.

    Parameters
    ----------
    run : the run folder
    epochs : the most that each fit may make
    tell : is told
    """

    def __init__(self, run: Place, epochs: Sequence[int], tell: Subscriber) -> None:
        self._run = run
        self._epochs = epochs
        self._tell = tell
        self._done = epochs_done(run, len(epochs))
        self._open = {fit for fit, most in enumerate(epochs) if self._done[fit] < most}
        self._one_at_a_time = threading.Lock()

    @property
    def done(self) -> int:
        """Epochs that are done, of all fits."""
        return sum(self._done)

    def look(self) -> None:
        """Tell of the epochs that were done since."""
        with self._one_at_a_time:
            for fit in sorted(self._open):
                self._look_at(fit)

    def close(self, fit: int) -> None:
        """Tell of a fit's last epochs; there will be no more."""
        with self._one_at_a_time:
            if fit in self._open:
                self._look_at(fit)
                self._open.discard(fit)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look now and then, in a thread."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_PERIOD):
                # What can't be read or told now is looked at when the fit is done.
                with suppress(OccultaError):
                    self.look()

        thread = threading.Thread(target=watch, name="epochs", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _look_at(self, fit: int) -> None:
        rows = _rows(self._run, fit, len(self._epochs))
        for row in rows[self._done[fit] :]:
            self._done[fit] += 1
            losses = float(row["train_loss"]), float(row["validation_loss"])
            accuracies = float(row["train_accuracy"]), float(row["validation_accuracy"])
            self._tell(EpochEnded(int(row["epoch"]), *losses, *accuracies, fit, self._epochs[fit]))


def _rows(run: Place, number: int, fits: int) -> list[dict[str, str]]:
    """Read a fit's history, which is replaced whole after each epoch."""
    try:
        text = (run / f"{fit_path(number, fits)}{HISTORY}").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return list(csv.DictReader(io.StringIO(text)))
