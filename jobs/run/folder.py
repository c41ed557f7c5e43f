"""Create a run folder, recognise it again, finalise it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from attribution.targets import target_names
from cluster.clock import timestamp
from cluster.ledger import Ledger
from cluster.place import Place, clear, local_folder, write_at
from cluster.provenance import versions
from cluster.store import create_array
from cluster.unit import ObjectFailure, Receipt, UnitKey

from ..errors import RefusedError
from ..plan import Plan
from ..products import consolidate
from ..specs.job import JobSpec
from ..specs.jobs import AttributionJob
from ..specs.load import dump_job, make_job
from ..specs.pipeline import PipelineJob
from ..specs.plain_yaml import parse_yaml
from ..specs.training import FitsJob
from .catalogue import COMPLETE, PENDING, QUARANTINED, write_catalogue, write_status
from .quarantine import BY_PLAN, quarantine_csv
from .status import MANIFEST, QUARANTINE, STORE, check_vacant, read_manifest

_STATUS_CHUNK = 1 << 20
_DIGEST = hashlib.sha256().digest_size


def create_run(run: Place, plan: Plan) -> None:
    """Write everything that is known before the work: the manifest comes last and makes it a run.

    Raises
    ------
    RefusedError
        If the folder holds something else.
    """
    check_vacant(run)
    clear(run / STORE)
    write_at(run / "job.yaml", dump_job(plan.job).encode())
    with local_folder(run / STORE) as folder:
        _write_template(folder, plan)
    manifest = {
        "kind": plan.job.kind,
        "name": plan.job.name,
        "created": timestamp(),
        "objects": plan.units.objects,
        "units": len(plan.units),
        "unit_objects": plan.units.unit_objects,
        "quarantined_by_plan": len(plan.failures),
        "device": plan.device,
        "digests": dict(plan.digests),
        "versions": versions(),
        **plan.facts,
    }
    write_manifest(run, manifest)


def write_manifest(run: Place, manifest: Mapping[str, Any]) -> None:
    """Write a run's manifest, whole or not at all."""
    write_at(run / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())


def check_same(
    run: Place, job: JobSpec, digests: Mapping[str, str], device: str = "cpu"
) -> dict[str, Any]:
    """Compare a run with what shall go on in its folder, and return the run's manifest.

    Raises
    ------
    RefusedError
        If spec, network, survey, code or device changed, by name.
    """
    manifest = read_manifest(run)
    changed = [part for part, digest in digests.items() if manifest["digests"].get(part) != digest]
    if manifest["device"] != device:
        changed.append("device")
    if not changed:
        return manifest
    details = _spec_changes(run, job) if "spec" in changed else []
    raise RefusedError(
        f"{run}: {', '.join(changed)} changed since this run began"
        f"{' (' + '; '.join(details) + ')' if details else ''}; "
        "undo the change to resume, or give another --out for a new run"
    )


def stored_job(run: Place) -> JobSpec:
    """Read the resolved spec of a run."""
    read_manifest(run)
    text = (run / "job.yaml").read_text(encoding="utf-8")
    where = str(run / "job.yaml")
    job = make_job(parse_yaml(text, where), where, Path("/"))  # its paths are absolute
    if isinstance(job, PipelineJob) and job.output != str(run):
        raise RefusedError(
            f"{run}: its steps name each other in {job.output}, where it began; move it back there"
        )
    return job.model_copy(update={"output": str(run)})


def finalise(run: Place, plan: Plan, check: Callable[[], None]) -> str:
    """Write what spans units, the manifest last, and return the digest over all results.

    Parameters
    ----------
    run : the run folder
    plan : what is in it
    check : raises an error if another driver has taken over the run

    Raises
    ------
    RefusedError
        If a unit is missing.
    """
    digests, done = bytearray(_DIGEST * len(plan.units)), bytearray(len(plan.units))
    failures = list(plan.failures)
    left_out: dict[int, ObjectFailure] = {}
    passes = {"forward": 0, "backward": 0}
    for receipt in Ledger(run / "ledger").receipts():
        number = plan.units.number(UnitKey.parse(receipt.key))
        digests[_DIGEST * number : _DIGEST * (number + 1)] = _receipt_digest(receipt)
        done[number] = 1
        failures.extend(receipt.failures)
        left_out.update({failure.index: failure for failure in receipt.left_out})
        passes["forward"] += receipt.forward
        passes["backward"] += receipt.backward
    missing = done.count(0)
    if missing:
        raise RefusedError(f"{run}: {missing} of {len(plan.units)} units are missing; resume it")
    failures.sort(key=lambda failure: failure.index)
    status = np.full(plan.units.objects, COMPLETE, dtype=np.uint8)
    status[[failure.index for failure in failures]] = QUARANTINED
    write_status(run / STORE, status)
    rows = [(BY_PLAN, left_out[index]) for index in sorted(left_out)]
    write_at(run / QUARANTINE, quarantine_csv([*rows, *_with_units(failures, plan)]))
    digest = hashlib.sha256(digests).hexdigest()
    check()
    ended = {"passes": passes, "results_digest": digest, "finished": timestamp()}
    write_manifest(run, {**read_manifest(run), **ended})
    return digest


def _write_template(store: Path, plan: Plan) -> None:
    root = zarr.open_group(store, mode="w", zarr_format=3)
    root.attrs.update({"title": plan.job.name, "kind": plan.job.kind})
    for path, spec in plan.template.items():
        create_array(root, path, spec, plan.units.objects, plan.units.unit_objects, plan.axis)
    if plan.catalogue is not None:
        write_catalogue(root, plan.catalogue)
    if isinstance(plan.job, AttributionJob):
        _write_coordinates(root, plan.job)
    if isinstance(plan.job, FitsJob):
        for dimension in ("class", "label", "predicted"):
            _write_names(root, f"fit/{dimension}", plan.job.classes)
    status = root.create_array(
        "status",
        shape=(plan.units.objects,),
        chunks=(min(_STATUS_CHUNK, plan.units.objects),),
        dtype="uint8",
        fill_value=0,
        compressors=(ZstdCodec(level=3), Crc32cCodec()),
        dimension_names=(plan.axis,),
        attributes={"long_name": "0 pending, 1 complete, 2 quarantined"},
        config={"write_empty_chunks": True},
    )
    values = np.full(plan.units.objects, PENDING, dtype=np.uint8)
    values[[failure.index for failure in plan.failures]] = QUARANTINED
    status[:] = values
    consolidate(root)


def _write_coordinates(root: zarr.Group, job: AttributionJob) -> None:
    """Name the classes and, for each method, its targets and what else has names."""
    _write_names(root, "prediction/class", job.network.classes)
    for request in job.requests():
        names = dict(request.method.coordinates)
        if request.method.targeted:
            names["target"] = tuple(target_names(request.targets, job.network.classes))
            if f"summary/{request.method.name}" in root:
                _write_names(root, f"summary/{request.method.name}/target", names["target"])
        for dimension, values in names.items():
            _write_names(root, f"{request.method.name}/{dimension}", values)


def _write_names(root: zarr.Group, path: str, names: Iterable[str]) -> None:
    values = np.array(list(names), dtype=object)
    array = root.create_array(
        path,
        shape=values.shape,
        chunks=values.shape,
        dtype=str,
        dimension_names=(path.rpartition("/")[2],),
    )
    array[:] = values


def _with_units(failures: list[ObjectFailure], plan: Plan) -> Iterable[tuple[str, ObjectFailure]]:
    by_plan = {failure.index for failure in plan.failures}
    for failure in failures:
        number = failure.index // plan.units.unit_objects
        yield BY_PLAN if failure.index in by_plan else str(plan.units[number]), failure


def _receipt_digest(receipt: Receipt) -> bytes:
    text = "\n".join(f"{shard.path} {shard.sha256}" for shard in receipt.shards)
    return hashlib.sha256(text.encode()).digest()


def _spec_changes(run: Place, job: JobSpec) -> list[str]:
    before, after = stored_job(run).identity(), job.identity()
    return [
        f"{path}: {before.get(path, 'absent')} -> {after.get(path, 'absent')}"
        for path in [*before, *(path for path in after if path not in before)]
        if before.get(path) != after.get(path)
    ]
