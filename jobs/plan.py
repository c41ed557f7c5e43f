"""Plans: everything that can be known before any work is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attribution.arrays import ArraySpec
from attribution.memory import bytes_per_row
from cluster.provenance import code_digest
from cluster.unit import ObjectFailure, UnitGrid
from cluster.workload import Workload
from training.checkpoints import network_digest

from .errors import RefusedError
from .run.status import STORE
from .specs.jobs import AttributionJob, JobSpec, SimulationJob
from .survey import Catalogue, open_survey
from .work.attribution import AttributionWorkload
from .work.network import open_network
from .work.simulation import SimulationWorkload

_UNIT_BYTES = 256 << 20
"""A unit's results are held in memory before they are written."""
_MOST_UNIT_OBJECTS = 1024
_FEWEST_UNITS = 64
"""Small surveys are cut finer, so that replicas end together and little is redone."""
_PROCESS_BYTES = 700 << 20
"""A replica before it holds anything: Python, torch, torchvision and Ray."""
_RESULT_COPIES = 4
"""Results exist in float64 by micro-batch and joined, then encoded one array at a time."""


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    job: JobSpec
    """The spec as resolved: nothing is ``auto`` that results depend on."""
    workload: Workload
    units: UnitGrid
    replicas: int | None
    """Replicas asked for; None for as many as there are cores or GPUs."""
    digests: Mapping[str, str]
    """Identity by part: spec, network, survey, code."""
    device: str = "cpu"
    """Device class: ``cpu`` or ``cuda``."""
    gpus_per_replica: float = 0
    catalogue: Catalogue | None = None
    """The objects, where they are known beforehand."""
    failures: tuple[ObjectFailure, ...] = ()
    """Rows of the catalogue that can't be objects of a run."""
    passes: tuple[float, float] = (0, 0)
    """Rows that go forward and backward through the network, per object."""
    micro_batch: int = 1
    """Objects that are worked on together."""
    row_bytes: int = 0
    """Memory for each of the rows of a pass, at most `micro_batch`."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of the manifest."""

    @property
    def template(self) -> Mapping[str, ArraySpec]:
        """The result arrays by their path in the store."""
        return self.workload.template

    @property
    def object_bytes(self) -> int:
        """Uncompressed result bytes of one object."""
        return _row_bytes(self.template)

    @property
    def replica_bytes(self) -> int:
        """Estimate the memory of one replica."""
        held = _RESULT_COPIES * self.object_bytes * min(self.units.unit_objects, self.units.objects)
        return _PROCESS_BYTES + self.row_bytes * self.micro_batch + held

    @property
    def files(self) -> int:
        """Shard files that the run writes."""
        return len(self.units) * len(self.template)


def plan_job(job: JobSpec, gpus: int = 0) -> Plan:
    """Validate a job against its survey and network, and plan its units.

    Parameters
    ----------
    job : as loaded, with absolute paths
    gpus : GPUs of the machine or cluster that will run it

    Raises
    ------
    RefusedError
        If anything that can be known beforehand is wrong.
    """
    if not job.output or "://" in job.output:
        raise RefusedError(f"output: {job.output!r} is no local folder; give one")
    if isinstance(job, AttributionJob):
        return _plan_attribution(job, gpus)
    if isinstance(job, SimulationJob):
        return _plan_simulation(job)
    raise RefusedError(f"kind: a {job.kind} job has no units to plan; `occulta run` runs it")


def _plan_attribution(job: AttributionJob, gpus: int) -> Plan:
    device, gpus_per_replica = _device(job, gpus)
    bands = len(job.network.preprocess.mean) or None
    survey = open_survey(job.survey, bands)
    if len(survey.catalogue) == 0:
        raise RefusedError(f"{survey.catalogue.source}: the catalogue is empty")
    workload = AttributionWorkload(job, Path(job.output) / STORE, survey.image_shape, device)
    network_sha256, row_bytes = _check_methods(workload)
    unit_objects = _unit_objects(job, len(survey.catalogue), _row_bytes(workload.template))
    execution = job.execution.model_copy(update={"shard_objects": unit_objects})
    job = job.model_copy(update={"execution": execution})
    workload = AttributionWorkload(job, workload.store, survey.image_shape, device)
    replicas = job.execution.replicas
    return Plan(
        job,
        workload,
        UnitGrid(len(survey.catalogue), unit_objects),
        None if replicas == "auto" else replicas,
        {
            "spec": _spec_digest(job),
            "network": network_sha256,
            "survey": survey.digest(),
            "code": code_digest(),
        },
        device,
        gpus_per_replica,
        survey.catalogue,
        tuple(survey.catalogue.failures()),
        _passes(workload),
        job.execution.micro_batch,
        row_bytes,
        {
            "classes": list(job.network.classes),
            "image_shape": list(workload.image_shape),
            "cutout_shape": list(survey.image_shape),
            "micro_batch": job.execution.micro_batch,
            "seed": job.execution.seed,
        },
    )


def _plan_simulation(job: SimulationJob) -> Plan:
    return Plan(
        job,
        SimulationWorkload(job),
        UnitGrid(job.objects, job.shard_objects),
        None if job.replicas == "auto" else job.replicas,
        {"spec": _spec_digest(job), "code": code_digest()},
        micro_batch=job.shard_objects,
        facts={"seed": job.seed},
    )


def _check_methods(workload: AttributionWorkload) -> tuple[str, int]:
    """Load the network as a replica will, and check every method on it.

    Returns
    -------
    The network's digest, and the bytes that each row of a pass needs.
    """
    job = workload.job
    network = open_network(job.network, workload.image_shape[0], job.execution.precision)
    _check_network(network, workload)
    for number, request in enumerate(workload.requests[1:]):
        try:
            layout = request.layout(workload.image_shape, job.network.classes)
            request.method.check(network, layout)
        except ValueError as error:
            raise RefusedError(f"methods[{number}] ({request.method.name}): {error}") from error
    _, backward = _passes(workload)
    row_bytes = bytes_per_row(network, workload.image_shape, gradients=backward > 0)
    return network_digest(network), row_bytes


def _check_network(network: torch.nn.Module, workload: AttributionWorkload) -> None:
    """Refuse a network that does not take the image shape or give the classes."""
    dtype = next(network.parameters(), torch.zeros(())).dtype
    shape = workload.image_shape
    try:
        with torch.inference_mode():
            logits = network(torch.zeros((1, *shape), dtype=dtype))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RefusedError(
            f"network: it does not accept images of shape {shape}: {reason}; "
            "set network.preprocess.size to the size it was trained at"
        ) from error
    classes = len(workload.job.network.classes)
    if tuple(logits.shape) != (1, classes):
        raise RefusedError(
            f"network: its output has shape {tuple(logits.shape)} for one image, expected "
            f"(1, {classes}); make network.classes agree with the network"
        )


def _device(job: AttributionJob, gpus: int) -> tuple[str, float]:
    wanted = job.execution.gpus_per_replica
    if wanted == "auto":
        wanted = 1.0 if gpus else 0.0
    if wanted > 0 and gpus == 0:
        raise RefusedError(
            f"execution.gpus_per_replica: {wanted:g} wanted, there is no GPU; set it to 0"
        )
    return ("cuda" if wanted else "cpu"), wanted


def _unit_objects(job: AttributionJob, objects: int, row_bytes: int) -> int:
    step = job.execution.micro_batch
    given = job.execution.shard_objects
    if given != "auto":
        if given % step:
            raise RefusedError(
                f"execution.shard_objects: {given} is no multiple of micro_batch {step}; "
                f"use {max(1, given // step) * step}"
            )
        return given
    most = min(_MOST_UNIT_OBJECTS, _UNIT_BYTES // row_bytes, objects // _FEWEST_UNITS)
    return max(1, most // step) * step


def _passes(workload: AttributionWorkload) -> tuple[float, float]:
    each = [
        request.method.passes(request.layout(workload.image_shape, workload.job.network.classes))
        for request in workload.requests
    ]
    return sum(forward for forward, _ in each), sum(backward for _, backward in each)


def _row_bytes(template: Mapping[str, ArraySpec]) -> int:
    return sum(
        int(np.prod(spec.shape)) * max(1, np.dtype(spec.dtype).itemsize)
        for spec in template.values()
    )


def _spec_digest(job: JobSpec) -> str:
    return hashlib.sha256(json.dumps(job.identity(), sort_keys=True).encode()).hexdigest()
