"""Whether a run's results are still the bytes that were committed, and making it whole again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import zarr

from cluster.errors import VerificationError
from cluster.lease import lease_of
from cluster.ledger import Ledger
from cluster.place import Place
from cluster.reading import zarr_store
from cluster.remote import S3Path
from cluster.store import shard_at
from cluster.unit import Receipt, ShardReceipt, UnitKey

from .catalogue import PENDING, QUARANTINED, write_status
from .folder import write_manifest
from .status import STORE, read_manifest

_ENDED = ("results_digest", "finished", "passes")
"""What the manifest says of a complete run alone."""
_REPAIR = "repairing"
"""Units, in the manifest, that are to be revoked."""
_READ = 1 << 20
"""Bytes of a file that are held at once."""


@dataclass(frozen=True)
class Damage:
    """A unit whose shard is not what was committed."""

    unit: str
    """Key of the unit."""
    shard: str
    """The first damaged shard, relative to the store."""
    fact: str
    """lost, or changed."""


@dataclass(frozen=True)
class Verification:
    """What was found."""

    units: int
    """Committed units that were checked."""
    shards: int
    """Files that were hashed."""
    damaged: tuple[Damage, ...]
    """Units with a damaged shard."""


def verify_run(run: Place) -> Verification:
    """Hash every committed shard of a run again, from its folder alone.

    Raises
    ------
    RefusedError
        If there is no run.
    VerificationError
        If the ledger itself is damaged.
    """
    read_manifest(run)
    units, shards, damaged = 0, 0, []
    for receipt in Ledger(run / "ledger").receipts():
        units, shards = units + 1, shards + len(receipt.shards)
        damaged += list(_first_damage(run / STORE, receipt))
    return Verification(units, shards, tuple(damaged))


def check_shards(run: Place) -> None:
    """Refuse to call a run complete whose shards are not those that were committed.

    A replica that was given up, or whose driver died, may go on for a while. It writes the same
    bytes as the one in its place, but for a unit whose micro-batch was halved or that an object
    was left out of since.

    Raises
    ------
    VerificationError
        With the first damaged unit.
    """
    damaged = verify_run(run).damaged
    if damaged:
        raise VerificationError(
            f"{run}: unit {damaged[0].unit}: {damaged[0].shard} is {damaged[0].fact} since it was "
            f"committed, as are {len(damaged) - 1} other units; run `occulta verify {run} "
            "--repair`, then resume"
        )


def repair_run(run: Place, found: Verification) -> None:
    """Make damaged units pending again, so that a resume computes them anew.

    What is good stays as it is; the run counts as unfinished until it is resumed.

    Raises
    ------
    RunBusyError
        If a driver works on the run.
    """
    manifest = read_manifest(run)
    lease = lease_of(run / "ledger")
    lease.acquire()
    try:
        # One step says that the run is not complete, and which units it lacks.
        kept = {key: value for key, value in manifest.items() if key not in _ENDED}
        write_manifest(run, {**kept, _REPAIR: sorted({damage.unit for damage in found.damaged})})
        finish_repair(run)
    finally:
        lease.release()


def finish_repair(run: Place) -> None:
    """Do the rest of a repair that was begun, if one was; the caller holds the run's lease."""
    manifest = read_manifest(run)
    keys = manifest.pop(_REPAIR, [])
    if not keys:
        return
    ledger = Ledger(run / "ledger")
    receipts = [receipt for receipt in ledger.receipts() if receipt.key in keys]
    _forget_status(run / STORE, receipts)
    with ledger.append() as log:
        for receipt in receipts:
            log.revoke(receipt.key)
    write_manifest(run, manifest)


def _first_damage(store: Place, receipt: Receipt) -> Iterator[Damage]:
    for shard in receipt.shards:
        fact = _damage(store, shard)
        if fact:
            yield Damage(receipt.key, shard.path, fact)
            return


def _damage(store: Place, shard: ShardReceipt) -> str:
    """Return what is wrong with a shard; empty if nothing is."""
    try:
        return "" if _sha256(shard_at(store, shard.path)) == shard.sha256 else "changed"
    except FileNotFoundError:
        return "lost"
    except VerificationError:
        return "changed"


def _sha256(path: Place) -> str:
    if isinstance(path, S3Path):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ):
            digest.update(block)
    return digest.hexdigest()


def _forget_status(store: Place, receipts: list[Receipt]) -> None:
    """Set the status of units back to what the plan gave it."""
    status = np.array(zarr.open_array(zarr_store(store / "status"), mode="r")[...], np.uint8)
    for receipt in receipts:
        key = UnitKey.parse(receipt.key)
        rows = status[key.start : key.stop]
        by_plan = rows == QUARANTINED
        by_plan[[failure.index - key.start for failure in receipt.failures]] = False
        status[key.start : key.stop] = np.where(by_plan, QUARANTINED, PENDING)
    write_status(store, status)
