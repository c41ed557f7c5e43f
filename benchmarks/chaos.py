"""Let many faults strike many runs at random, and see whether anything is lost or changed.

A golden run is made first; every other run must end with its very bytes, whatever strikes it. Run
as root, the output is on a small file system of its own, which can be filled and made read-only.

    python -m benchmarks.chaos --faults 200 --seed 1
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.arena import (
    UNITS,
    Arena,
    Driver,
    Verdict,
    alive,
    committed_keys,
    kill,
    shards,
)

DISK = 24 << 20
"""Bytes of the output's file system."""
FROZEN_SECONDS = 2.0
ORPHAN_SECONDS = 30.0


@dataclass
class Record:
    """What came of the faults of one kind."""

    count: int = 0
    recoveries: list[float] = field(default_factory=list)
    exits: Counter[int] = field(default_factory=Counter)
    verdicts: list[Verdict] = field(default_factory=list)
    orphans: int = 0
    """Processes that outlived their driver by long."""


class Campaign:
    """Runs, struck until there were enough faults."""

    def __init__(self, folder: Path, faults: int, seed: int, only: str | None) -> None:
        self.arena = Arena(folder, _longer)
        self.faults = faults
        self.dice = random.Random(seed)
        self.only = only
        self.disk = folder / "disk"
        self.disk.mkdir()
        self.can_mount = os.geteuid() == 0 and self._mount("-t", "tmpfs", "-o", f"size={DISK}")
        self.records: defaultdict[str, Record] = defaultdict(Record)
        self.runs = 0
        self.log: list[str] = []
        self._waiting: list[tuple[str, float, int]] = []
        """Faults after which no unit was committed yet: kind, time, units then."""

    @property
    def struck(self) -> int:
        """Faults so far."""
        return sum(record.count for record in self.records.values())

    def fight(self) -> None:
        """Make runs until there were enough faults."""
        while self.struck < self.faults:
            self.runs += 1
            run = self.disk / f"run-{self.runs}"
            kinds = self._one_run(run)
            subprocess.run(["rm", "-rf", str(run)], check=True)
            found = ", ".join(kinds)
            print(f"{self.struck} faults, run {self.runs}: {found}", file=sys.stderr, flush=True)

    # One run.

    def _one_run(self, run: Path) -> list[str]:
        kinds: list[str] = []
        for _ in range(20):
            driver = self.arena.drive(run)
            code = self._strike_while_it_runs(driver, kinds)
            if code == 0:
                break
            if self.dice.random() < 0.5:
                kinds += self._damage_at_rest(run)
        else:
            self.log.append(f"{run.name}: never complete")
        verdict = self.arena.judge(run)
        if verdict.sound and self.dice.random() < 0.3:
            kinds += self._damage_at_rest(run)
            driver = self.arena.drive(run)
            driver.end()
            self._note_recoveries(run)
            verdict = self.arena.judge(run)
        for kind in set(kinds):
            self.records[kind].verdicts.append(verdict)
        if not verdict.sound or verdict.false_complete:
            self.log.append(f"{run.name}: {verdict} after {kinds}")
        return kinds

    def _strike_while_it_runs(self, driver: Driver, kinds: list[str]) -> int:
        """Strike a driver now and then until it ends; return its exit code."""
        while True:
            done = len(committed_keys(driver.run))
            runs = driver.wait_for(done + 1)
            self._note_recoveries(driver.run)
            if not runs or self.struck + len(kinds) >= self.faults + 5:
                return driver.end()
            time.sleep(self.dice.random())
            kind = self._pick()
            family = driver.family()
            self._begin(kind, driver.run)
            kinds.append(kind)
            ends = LIVE[kind][1](self, driver)
            if not ends:
                continue
            try:
                code = driver.end()
            except subprocess.TimeoutExpired:
                self.log.append(f"{driver.run.name}: did not end of: {kind}")
                kill(driver.process.pid)
                code = driver.end()
            record = self.records[kind]
            record.exits[code] += 1
            record.orphans += self._orphans(family)
            return code

    def _pick(self) -> str:
        if self.only:
            return self.only
        kinds = [k for k in LIVE if self.can_mount or k not in NEED_A_DISK]
        return self.dice.choices(kinds, [LIVE[kind][0] for kind in kinds])[0]

    def _begin(self, kind: str, run: Path) -> None:
        self.records[kind].count += 1
        self._waiting.append((kind, time.monotonic(), len(set(committed_keys(run)))))

    def _note_recoveries(self, run: Path) -> None:
        """Of the faults that wait for it, note how long it took until a unit was committed."""
        now, units = time.monotonic(), len(set(committed_keys(run)))
        for kind, began, before in self._waiting:
            if units > before or units == UNITS:
                self.records[kind].recoveries.append(now - began)
        self._waiting = [w for w in self._waiting if units <= w[2] and units < UNITS]

    def _orphans(self, family: dict[int, str]) -> int:
        end = time.monotonic() + ORPHAN_SECONDS
        while (left := alive(family)) and time.monotonic() < end:
            time.sleep(0.2)
        kill(*left)
        return len(left)

    # Faults while nobody works on the run.

    def _damage_at_rest(self, run: Path) -> list[str]:
        files = [path for path in dict.fromkeys(shards(run)) if path.exists()]
        kinds = []
        for path in self.dice.sample(files, min(len(files), self.dice.randint(1, 6))):
            kind = self.dice.choice([*AT_REST])
            self.records[kind].count += 1
            kinds.append(kind)
            AT_REST[kind](self.dice, path)
        began = time.monotonic()
        if kinds:
            found = self.arena.occulta("verify", str(run))
            if found.returncode != 6:
                self.log.append(f"{run.name}: verify said {found.returncode} after {kinds}")
            self.arena.occulta("verify", str(run), "--repair").check_returncode()
            for kind in kinds:
                self.records[kind].recoveries.append(time.monotonic() - began)
        segments = sorted((run / "ledger").glob("*.jsonl"))
        if segments and self.dice.random() < 0.5 and not (run / "quarantine.csv").exists():
            kind = "ledger line torn"
            self.records[kind].count += 1
            kinds.append(kind)
            line = segments[-1].read_bytes().splitlines(keepends=True)[-1]
            with segments[-1].open("ab") as file:
                file.write(line[: self.dice.randint(1, len(line) - 1)])
        return kinds

    # The disk.

    def _mount(self, *options: str) -> bool:
        command = ["mount", *options, "tmpfs", str(self.disk)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def fill(self, driver: Driver) -> bool:
        """Fill the disk until the driver gives up."""
        filler = self.disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while driver.process.poll() is None:
                file.write(bytes(4096))
        driver.end()
        filler.unlink()
        return True

    def make_read_only(self, driver: Driver) -> bool:
        """Let nobody open a file for writing until the driver gives up."""
        # Where files are open, only a second view of the file system can be read-only.
        for options in (("--bind",), ("-o", "remount,bind,ro")):
            subprocess.run(["mount", *options, str(self.disk), str(self.disk)], check=True)
        driver.end()
        subprocess.run(["umount", str(self.disk)], check=True)
        return True

    def close(self) -> None:
        """Give the disk back."""
        if self.can_mount:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=False)

    def table(self) -> str:
        """Tell what came of all faults, by kind."""
        lines = [
            f"{'fault':26} {'count':>5} {'lost':>5} {'doubled':>7} {'changed':>7} {'false':>5} "
            f"{'orphans':>7} {'recovery s':>10} {'worst':>6}  exit codes"
        ]
        for kind, record in sorted(self.records.items()):
            times = record.recoveries or [float("nan")]
            verdicts = record.verdicts
            codes = ", ".join(f"{code} ({n})" for code, n in sorted(record.exits.items()))
            lines.append(
                f"{kind:26} {record.count:5} {sum(v.lost for v in verdicts):5} "
                f"{sum(v.duplicated for v in verdicts):7} {sum(v.changed for v in verdicts):7} "
                f"{sum(v.false_complete for v in verdicts):5} {record.orphans:7} "
                f"{statistics.median(times):10.1f} {max(times):6.1f}  {codes}".rstrip()
            )
        lines.append(f"{'all':26} {self.struck:5} in {self.runs} runs of {UNITS} units")
        return "\n".join([*lines, *self.log])


def _longer(job: str) -> str:
    """Let a run take long enough for the loss of its cluster to be noticed."""
    return job.replace("stride: 8", "stride: 3")


def _replica_killed(_: Campaign, driver: Driver) -> bool:
    kill(*driver.replicas()[:1])
    return False


def _all_replicas_killed(_: Campaign, driver: Driver) -> bool:
    kill(*driver.replicas())
    return False


def _frozen(pids: list[int]) -> bool:
    kill(*pids, how=signal.SIGSTOP)
    time.sleep(FROZEN_SECONDS)
    kill(*pids, how=signal.SIGCONT)
    return False


def _driver_gets(how: signal.Signals) -> Callable[[Campaign, Driver], bool]:
    def strike(_: Campaign, driver: Driver) -> bool:
        kill(driver.process.pid, how=how)
        return True

    return strike


def _server_killed(name: str) -> Callable[[Campaign, Driver], bool]:
    def strike(_: Campaign, driver: Driver) -> bool:
        kill(driver.server(name))
        return True

    return strike


def _everything_killed(_: Campaign, driver: Driver) -> bool:
    kill(driver.process.pid, *driver.family())
    return True


def _another_driver(campaign: Campaign, driver: Driver) -> bool:
    """Begin a second driver while the first one is frozen, which is when it looks dead."""
    kill(driver.process.pid, how=signal.SIGSTOP)
    second = campaign.arena.drive(driver.run)
    campaign.records["second driver"].exits[second.end()] += 1
    kill(driver.process.pid, how=signal.SIGCONT)
    return False


LIVE: dict[str, tuple[int, Callable[[Campaign, Driver], bool]]] = {
    "replica killed": (12, _replica_killed),
    "all replicas killed": (5, _all_replicas_killed),
    "replica frozen": (8, lambda _, driver: _frozen(driver.replicas()[:1])),
    "driver frozen": (6, lambda _, driver: _frozen([driver.process.pid])),
    "driver killed": (2, _driver_gets(signal.SIGKILL)),
    "driver SIGTERM": (1, _driver_gets(signal.SIGTERM)),
    "driver SIGINT": (1, _driver_gets(signal.SIGINT)),
    "head killed": (1, _server_killed("gcs_server")),
    "node killed": (1, _server_killed("raylet")),
    "everything killed": (1, _everything_killed),
    "second driver": (1, _another_driver),
    "disk full": (1, Campaign.fill),
    "disk read-only": (1, Campaign.make_read_only),
}
"""How often a fault is picked, and what it does; it tells whether the driver must end of it."""
NEED_A_DISK = ("disk full", "disk read-only")


def _flip(dice: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


AT_REST: dict[str, Callable[[random.Random, Path], object]] = {
    "shard flipped": _flip,
    "shard truncated": lambda dice, path: os.truncate(path, dice.randrange(path.stat().st_size)),
    "shard emptied": lambda _, path: os.truncate(path, 0),
    "shard deleted": lambda _, path: path.unlink(),
}


def main() -> None:
    """Fight and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", choices=LIVE, help="the one kind of fault while a run is worked on"
    )
    options = parser.parse_args()
    # A shell that put us into the background made us, and all that we start, deaf to it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="occulta-chaos-") as folder:
        campaign = Campaign(Path(folder), options.faults, options.seed, options.only)
        try:
            campaign.fight()
        finally:
            campaign.close()
    minutes = (time.monotonic() - began) / 60
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, seed {options.seed}, "
        f"{minutes:.0f} minutes; recovery: from the fault to the next unit (at rest: to the end of "
        "`verify --repair`)\n"
    )
    print(campaign.table())


if __name__ == "__main__":
    main()
