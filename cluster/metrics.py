"""A run's totals among the metrics of its Ray cluster, for Prometheus and dashboards."""

from __future__ import annotations

from typing import Any

from .events import Event, RunStarted, Totals, UnitCommitted

_COUNTERS = {
    "units": "Units that are committed",
    "objects": "Objects of the units that are committed",
    "quarantined": "Objects that gave no results",
    "retries": "Attempts that came to nothing before those that were committed",
    "forward": "Rows that went forward through the network",
    "backward": "Rows that went backward through the network",
    "bytes": "Bytes of the shards",
    "seconds": "Seconds that replicas worked",
}
"""What is counted, as `Totals` names it."""


class RayMetrics:
    """Counts what a run commits; a subscriber.

    Counters are named ``ray_occulta_units_total`` and so on, and are labelled with the run. Those
    of each driver begin with what earlier drivers committed, so that at the end of a run the
    largest of a run's values is what its ledger adds up to.
    """

    def __init__(self) -> None:
        self._counters: dict[str, Any] = {}
        self._run = ""

    def __call__(self, event: Event) -> None:
        """Count what an event adds."""
        if isinstance(event, RunStarted):
            self._begin(event.run)
            self._add(event.done)
        elif isinstance(event, UnitCommitted) and self._counters:
            self._add(event.totals)

    def _begin(self, run: str) -> None:
        # Slow to import, and a run that is complete or refused needs no Ray.
        from ray.util.metrics import Counter  # noqa: PLC0415

        self._run = run
        self._counters = {
            name: Counter(f"occulta_{name}", description, tag_keys=("run",))
            for name, description in _COUNTERS.items()
        }

    def _add(self, totals: Totals) -> None:
        for name, counter in self._counters.items():
            if value := getattr(totals, name):
                counter.inc(value, {"run": self._run})
