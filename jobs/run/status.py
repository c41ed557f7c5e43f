"""What a run folder says about its run: no Ray, no network and no user code."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from cluster import clock
from cluster.events import Totals, UnitCommitted
from cluster.lease import lease_of
from cluster.ledger import Ledger
from cluster.place import Place
from cluster.unit import UnitKey

from ..errors import RefusedError
from .epochs import epochs_done
from .events import History
from .pace import Speed, patience

MANIFEST, STORE, QUARANTINE = "manifest.json", "results.zarr", "quarantine.csv"
EVENTS = "events.jsonl"
"""Names in a run folder."""
BEGINNING = frozenset({"job.yaml", STORE, "ledger", EVENTS})
"""What a driver that died early leaves behind."""


@dataclass(frozen=True)
class Status:
    """The state of a run, as `occulta status --json` prints it."""

    run: str
    kind: str
    state: str
    """planned, running, complete, failed, stopped or interrupted."""
    units: dict[str, int]
    objects: dict[str, int]
    started: str | None
    updated: str | None
    eta_seconds: float | None
    objects_per_second: float | None
    """Over the last minutes."""
    stalled_seconds: float | None
    """Since the last unit, where that is much longer than units take."""
    epochs: dict[str, int] | None = None
    """Of a training run, whose units are its fits: total and done."""
    steps: dict[str, str] | None = None
    """Of a pipeline: the state of each."""
    committed_keys: list[str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; the keys of units only where they were asked for."""
        data = asdict(self)
        return {
            name: value
            for name, value in data.items()
            if value is not None or name not in ("epochs", "steps", "committed_keys")
        }

    def line(self) -> str:
        """Return the progress in one line."""
        done, total = self.objects["complete"], self.objects["total"]
        parts = [f"{self.state}: {done:,} of {total:,} objects"]
        if self.epochs is not None:
            parts = [
                f"{self.state}: {self.epochs['done']:,} of {self.epochs['total']:,} epochs",
                f"{self.units['committed']:,} of {self.units['total']:,} fits",
            ]
        if self.steps is not None:
            complete = sum(state == "complete" for state in self.steps.values())
            parts.insert(1, f"{complete} of {len(self.steps)} steps")
        if self.objects["quarantined"]:
            parts.append(f"{self.objects['quarantined']:,} quarantined")
        if self.objects_per_second:
            parts.append(f"{self.objects_per_second:.3g}/s")
        if self.eta_seconds is not None:
            parts.append(f"{timedelta(seconds=round(self.eta_seconds))} left")
        if self.stalled_seconds is not None:
            parts.append(f"no unit for {timedelta(seconds=round(self.stalled_seconds))}")
        return ", ".join(parts)


def read_manifest(run: Place) -> dict[str, Any]:
    """Read a run's manifest.

    Raises
    ------
    RefusedError
        If there is no run in this folder, or its manifest is damaged.
    """
    path = run / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RefusedError(
            f"{run}: holds no run; give the folder that `occulta run` printed"
        ) from error
    except (OSError, ValueError) as error:
        raise RefusedError(f"{path}: can't be read: {error}") from error
    assert isinstance(manifest, dict)
    return manifest


def check_vacant(run: Place, ours: Collection[str] = BEGINNING) -> None:
    """Refuse a folder that holds something else than a run, or the beginning of one.

    Parameters
    ----------
    run : where a run is, or shall be
    ours : names that a driver which died early may have left behind

    Raises
    ------
    RefusedError
        With the name of what is there.
    """
    if run.is_dir() and not (run / MANIFEST).exists():
        foreign = sorted({entry.name for entry in run.iterdir()} - set(ours))
        if foreign:
            raise RefusedError(
                f"output: {run} holds {foreign[0]!r}, which is no part of a run; give a new folder"
            )


def read_status(run: Place, *, keys: bool = False, now: datetime | None = None) -> Status:
    """Tell how far a run is, from its folder alone.

    Parameters
    ----------
    run : the folder
    keys : whether to list the committed units
    now : the time, by default that of the clock

    Raises
    ------
    RefusedError
        If there is no run in this folder.
    """
    manifest = read_manifest(run)
    if manifest["kind"] == "pipeline":
        return _pipeline_status(run, manifest, keys, now)
    committed: list[str] = []
    sums = Totals()
    left_out: set[int] = set()
    training = "epochs" in manifest  # its units are fits
    for receipt in Ledger(run / "ledger").receipts(shards=False):
        sums += UnitCommitted.of(receipt).totals
        left_out.update(failure.index for failure in receipt.left_out)
        if keys or training:
            committed.append(receipt.key)
    done, quarantined = sums.objects, int(manifest["quarantined_by_plan"]) + sums.quarantined
    history = History(run / EVENTS)
    objects, units = int(manifest["objects"]), int(manifest["units"])
    left, epochs = objects - done, None
    if training:
        # No object is done with before the last fit is.
        objects, quarantined = sum(manifest["labelled"].values()), len(left_out)
        done = objects if manifest.get("results_digest") else 0
        epochs = _epochs(run, manifest["epochs"], committed)
        left = epochs["total"] - epochs["done"]
    state = _state(run, manifest, history)
    running = state == "running"
    pace = _Pace(history.session(), "EpochEnded" if training else "UnitCommitted")
    speed = pace.per_second
    stalled = pace.stalled(now or clock.now()) if running and not training else None
    return Status(
        run=str(run),
        kind=manifest["kind"],
        state=state,
        units={
            "total": units,
            "committed": sums.units,
            "quarantined": sums.quarantined if training else 0,
            "pending": units - sums.units,
        },
        objects={
            "total": objects,
            "complete": max(0, done - quarantined),
            "quarantined": quarantined,
        },
        started=history.started,
        updated=history.updated,
        eta_seconds=left / speed if speed and running else None,
        objects_per_second=None if training else speed,
        stalled_seconds=stalled,
        epochs=epochs,
        committed_keys=committed if keys else None,
    )


def _pipeline_status(
    run: Place, manifest: dict[str, Any], keys: bool, now: datetime | None
) -> Status:
    """Sum up the steps; those that were not begun have no units and objects yet."""
    found = {
        name: read_status(run / name, keys=keys, now=now)
        for name in manifest["steps"]
        if (run / name / MANIFEST).exists()
    }
    steps = {name: found[name].state if name in found else "planned" for name in manifest["steps"]}
    history = History(run / EVENTS)
    state = _state(run, {"results_digest": "finished" in manifest}, history)
    if state == "complete" and set(steps.values()) != {"complete"}:
        state = "interrupted"  # a repair has made units of a step pending
    running = [status for status in found.values() if status.state == "running"]
    return Status(
        run=str(run),
        kind=manifest["kind"],
        state=state,
        units=_sums(
            ("total", "committed", "quarantined", "pending"), [s.units for s in found.values()]
        ),
        objects=_sums(("total", "complete", "quarantined"), [s.objects for s in found.values()]),
        started=history.started,
        updated=max([history.updated, *(s.updated for s in found.values())], key=lambda t: t or ""),
        eta_seconds=None,
        objects_per_second=running[0].objects_per_second if running else None,
        stalled_seconds=running[0].stalled_seconds if running else None,
        steps=steps,
        committed_keys=[
            f"{name}/{key}" for name, status in found.items() for key in status.committed_keys or ()
        ]
        if keys
        else None,
    )


def _sums(names: Sequence[str], counts: Sequence[dict[str, int]]) -> dict[str, int]:
    return {name: sum(count[name] for count in counts) for name in names}


def _epochs(run: Place, most: Sequence[int], committed: Collection[str]) -> dict[str, int]:
    """Count the epochs of fits; one that stopped early has no more to make."""
    done = epochs_done(run, len(most))
    ended = {UnitKey.parse(key).start for key in committed}
    total = sum(done[fit] if fit in ended else epochs for fit, epochs in enumerate(most))
    return {"total": total, "done": sum(done)}


def _state(run: Place, manifest: dict[str, Any], history: History) -> str:
    if manifest.get("results_digest"):
        return "complete"
    if lease_of(run / "ledger").held():
        return "running"
    if not history.latest:
        return "planned"
    last = history.latest[-1]
    return str(last["state"]) if last["event"] == "RunEnded" else "interrupted"


class _Pace:
    """How fast a driver goes, from the events that it told last.

    Parameters
    ----------
    session : what it told
    step : the event that tells of progress
    """

    def __init__(self, session: Sequence[dict[str, Any]], step: str) -> None:
        marks = ("DriverStarted", "RunStarted", step)
        self._marks = [event for event in session if event["event"] in marks]

    @property
    def per_second(self) -> float | None:
        """Objects, or else steps, per second."""
        if not self._marks:
            return None
        speed = Speed(_seconds(self._marks[0]))
        for event in self._marks[1:]:
            speed.add(_seconds(event), event.get("objects", 1))
        return speed.per_second

    def stalled(self, now: datetime) -> float | None:
        """Return the seconds since the last unit if that is worth a warning.

        Told without the driver's own alarm, which a frozen driver does not raise.
        """
        if not self._marks:
            return None
        silent = now.timestamp() - _seconds(self._marks[-1])
        units = [float(event["seconds"]) for event in self._marks if "seconds" in event]
        return silent if silent >= patience(units) else None


def _seconds(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()
