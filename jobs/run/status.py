"""What a run folder says about its run: no Ray, no network and no user code."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cluster.ledger import Lease, Ledger
from cluster.unit import UnitKey

from ..errors import RefusedError
from .history import epochs_done

MANIFEST, STORE, QUARANTINE = "manifest.json", "results.zarr", "quarantine.csv"
"""Names in a run folder."""
BEGINNING = frozenset({"job.yaml", STORE, "ledger", "events.jsonl"})
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
    committed_keys: list[str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; the keys of units only where they were asked for."""
        data = asdict(self)
        if self.committed_keys is None:
            del data["committed_keys"]
        return data

    def line(self) -> str:
        """Return the progress in one line."""
        done, total = self.objects["complete"], self.objects["total"]
        parts = [f"{self.state}: {done:,} of {total:,} objects"]
        if self.objects["quarantined"]:
            parts.append(f"{self.objects['quarantined']:,} quarantined")
        if self.objects_per_second:
            parts.append(f"{self.objects_per_second:.3g}/s")
        if self.eta_seconds is not None:
            parts.append(f"{timedelta(seconds=round(self.eta_seconds))} left")
        return ", ".join(parts)


def read_manifest(run: Path) -> dict[str, Any]:
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


def check_vacant(run: Path, ours: Collection[str] = BEGINNING) -> None:
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


def read_status(run: Path, *, keys: bool = False) -> Status:
    """Tell how far a run is, from its folder alone.

    Raises
    ------
    RefusedError
        If there is no run in this folder.
    """
    manifest = read_manifest(run)
    committed, done, quarantined = [], 0, int(manifest["quarantined_by_plan"])
    for receipt in Ledger(run / "ledger").receipts():
        key = UnitKey.parse(receipt.key)
        committed.append(receipt.key)
        done += key.stop - key.start
        quarantined += len(receipt.failures)
    events = _events(run / "events.jsonl")
    objects, units = int(manifest["objects"]), int(manifest["units"])
    finished = len(committed)
    if manifest["kind"] == "training":
        # Its units are epochs; no object is complete before the last one.
        finished = epochs_done(run)
        done = objects if manifest.get("results_digest") else 0
    speed = _speed(events)
    state = _state(run, manifest, events)
    return Status(
        run=str(run),
        kind=manifest["kind"],
        state=state,
        units={
            "total": units,
            "committed": finished,
            "quarantined": 0,
            "pending": units - finished,
        },
        objects={
            "total": objects,
            "complete": max(0, done - quarantined),
            "quarantined": quarantined,
        },
        started=events[0]["time"] if events else None,
        updated=events[-1]["time"] if events else None,
        eta_seconds=(objects - done) / speed if speed and state == "running" else None,
        objects_per_second=speed,
        committed_keys=committed if keys else None,
    )


def _state(run: Path, manifest: dict[str, Any], events: list[dict[str, Any]]) -> str:
    if manifest.get("results_digest"):
        return "complete"
    if Lease(run / "ledger").held():
        return "running"
    if not events:
        return "planned"
    last = events[-1]
    return str(last["state"]) if last["event"] == "RunEnded" else "interrupted"


def _speed(events: list[dict[str, Any]]) -> float | None:
    """Objects per second since the last driver began."""
    starts = [i for i, event in enumerate(events) if event["event"] == "RunStarted"]
    if not starts:
        return None
    session = events[starts[-1] :]
    commits = [event for event in session if event["event"] == "UnitCommitted"]
    if not commits:
        return None
    span = datetime.fromisoformat(commits[-1]["time"]) - datetime.fromisoformat(session[0]["time"])
    seconds = span.total_seconds()
    return float(sum(event["objects"] for event in commits) / seconds) if seconds > 0 else None


def _events(path: Path) -> list[dict[str, Any]]:
    """Read the history; a torn last line is passed over."""
    if not path.exists():
        return []
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
