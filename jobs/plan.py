"""Plans: everything that can be known before any work is done."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from attribution.arrays import ArraySpec
from cluster.place import open_place
from cluster.placement import Placement
from cluster.provenance import code_digest
from cluster.unit import ObjectFailure, UnitGrid
from cluster.workload import Workload
from training.galsim_telescope import import_galsim

from .errors import RefusedError
from .preflight import check_group_by, check_targets, inspect_network
from .run.status import STORE, check_vacant
from .specs.diagnostics import DiagnosticsJob
from .specs.execution import ExecutionSpec, replica_range
from .specs.job import JobSpec
from .specs.jobs import AttributionJob, InceptionismJob, SimulationJob
from .specs.training import FitsJob, TrainingExecution, TrainingJob
from .survey import Catalogue, Preprocess, open_survey
from .work.attribution import AttributionWorkload
from .work.diagnostics import DiagnosticsWorkload
from .work.inception_inputs import inspect_inceptionism
from .work.labelled import check_counts
from .work.simulation import SimulationWorkload
from .work.targets import count_targets, learnable_rows, listed_ids
from .work.training import TrainingWorkload, build_network

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
    replicas: range | None
    """From how many replicas to how many, both included; None for as many as have room."""
    digests: Mapping[str, str]
    """Identity by part: spec, network, survey, code."""
    device: str = "cpu"
    """Device class: ``cpu`` or ``cuda``."""
    placement: Placement = field(default_factory=Placement)
    """What each replica needs of its node."""
    unit_seconds: float | None = None
    """How long a unit may take; None to judge by those that are done."""
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
    missing_files: int = 0
    """Objects whose file is not there."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of the manifest."""
    axis: str = "object"
    """What the rows of the results are."""

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
    if not job.output:
        raise RefusedError("output: is empty; give a folder, or s3://bucket/prefix")
    check_vacant(open_place(job.output))
    if isinstance(job, AttributionJob):
        return _plan_attribution(job, gpus)
    if isinstance(job, SimulationJob):
        return _plan_simulation(job)
    if isinstance(job, InceptionismJob):
        return _plan_inceptionism(job, gpus)
    assert isinstance(job, FitsJob)
    return _plan_training(job, gpus)


def _plan_attribution(job: AttributionJob, gpus: int) -> Plan:
    device, placement = _placement(job.execution, gpus)
    bands = len(job.network.preprocess.mean) or None
    survey = open_survey(job.survey, bands)
    if len(survey.catalogue) == 0:
        raise RefusedError(f"{survey.catalogue.source}: the catalogue is empty")
    job = job.model_copy(update={"survey": survey.resolved()})
    workload = AttributionWorkload(job, open_place(job.output) / STORE, survey.image_shape, device)
    network = inspect_network(workload)
    workload = replace(workload, layers=network.layers)
    unit_objects = _unit_objects(job, len(survey.catalogue), _row_bytes(workload.template))
    execution = job.execution.model_copy(update={"shard_objects": unit_objects})
    job = job.model_copy(update={"execution": execution})
    workload = replace(workload, job=job)
    check_targets(workload, survey.catalogue)
    check_group_by(job, survey.catalogue)
    snapshot = survey.snapshot()
    return Plan(
        job,
        workload,
        UnitGrid(len(survey.catalogue), unit_objects),
        replica_range(job.execution.replicas),
        {
            "spec": job.digest(),
            "network": network.sha256,
            "survey": snapshot.digest,
            "code": code_digest(),
        },
        device,
        placement,
        _unit_seconds(job.execution),
        survey.planned(snapshot),
        tuple(survey.catalogue.failures()),
        workload.passes,
        job.execution.micro_batch,
        network.row_bytes,
        snapshot.missing_files,
        {
            "classes": list(job.network.classes),
            "image_shape": list(workload.image_shape),
            "cutout_shape": list(survey.image_shape),
            "micro_batch": job.execution.micro_batch,
            "seed": job.execution.seed,
        },
    )


def _plan_simulation(job: SimulationJob) -> Plan:
    if job.galsim is not None:
        try:
            import_galsim()
        except ValueError as error:
            raise RefusedError(str(error)) from error
    return Plan(
        job,
        SimulationWorkload(job),
        UnitGrid(job.objects, job.shard_objects),
        replica_range(job.replicas),
        {"spec": job.digest(), "code": code_digest()},
        micro_batch=job.shard_objects,
        facts={"seed": job.seed},
    )


def _plan_inceptionism(job: InceptionismJob, gpus: int) -> Plan:
    device, placement = _placement(job.execution, gpus)
    unit_objects = _given_unit_objects(job.execution) or job.execution.micro_batch
    execution = job.execution.model_copy(update={"shard_objects": unit_objects})
    job = job.model_copy(update={"execution": execution})
    inputs = inspect_inceptionism(job, device)
    workload = inputs.workload
    return Plan(
        job,
        workload,
        UnitGrid(len(workload.drawings), unit_objects),
        replica_range(job.execution.replicas),
        {"spec": job.digest(), "code": code_digest(), **inputs.digests},
        device,
        placement,
        _unit_seconds(job.execution),
        passes=workload.passes,
        micro_batch=job.execution.micro_batch,
        row_bytes=inputs.row_bytes,
        facts={
            "classes": list(job.network.classes),
            "image_shape": list(workload.image_shape),
            "micro_batch": job.execution.micro_batch,
            "seed": job.execution.seed,
        },
    )


def _plan_training(job: FitsJob, gpus: int) -> Plan:
    device, placement = _placement(job.execution, gpus)
    threads = job.execution.threads
    processes = job.execution.processes
    placement = replace(placement, cpus=max(placement.cpus, threads), processes=processes)
    survey = open_survey(job.survey, len(job.preprocess.mean) or None)
    rows = learnable_rows(job, survey.catalogue)
    snapshot = survey.snapshot()
    survey_digest = snapshot.digest
    if job.only or job.also_train:
        lists = [sorted(listed_ids(paths)) for paths in (job.only, job.also_train)]
        listed = json.dumps([survey_digest, *lists])
        survey_digest = hashlib.sha256(listed.encode()).hexdigest()
    place = open_place(job.output)
    workload = (
        DiagnosticsWorkload(job, place, survey_digest, device, placement)
        if isinstance(job, DiagnosticsJob)
        else TrainingWorkload(job, place, survey_digest, device, placement)
    )
    for fit in workload.fits:
        check_counts(fit, len(rows))
    bands, *shape = survey.image_shape
    parameters = _parameters(workload.fits, bands)
    network_shape = Preprocess(job.preprocess, bands).output_shape((shape[0], shape[1]))
    labelled = count_targets(job, survey.catalogue.take(rows))
    count = len(workload.fits)
    return Plan(
        job,
        workload,
        UnitGrid(count, 1),
        replica_range(job.execution.replicas) or range(1, count + 1),
        {"spec": job.digest(), "survey": survey_digest, "code": code_digest()},
        device,
        placement,
        math.inf if job.execution.unit_timeout == "auto" else job.execution.unit_timeout,
        missing_files=snapshot.missing_files,
        axis="fit",
        facts={
            "classes": list(job.classes),
            "epochs": workload.epochs,
            "labelled": labelled,
            "parameters": parameters,
            "image_shape": [bands, *network_shape],
            "seed": job.fit.seed,
        },
    )


def _parameters(fits: Sequence[TrainingJob], bands: int) -> list[int]:
    """Build each network that fits begin with, and count its parameters."""
    counts = {}
    for fit in fits:
        key = (fit.architecture, str(fit.options))
        if key not in counts:
            network = build_network(fit, bands)
            counts[key] = sum(part.numel() for part in network.parameters())
    return sorted(set(counts.values()))


def _placement(execution: ExecutionSpec | TrainingExecution, gpus: int) -> tuple[str, Placement]:
    """Return the device class, and what each replica needs of its node."""
    wanted = execution.gpus_per_replica
    if wanted == "auto":
        wanted = 1.0 if gpus else 0.0
    if wanted > 0 and gpus == 0:
        raise RefusedError(
            f"execution.gpus_per_replica: {wanted:g} wanted, there is no GPU; set it to 0"
        )
    device = "cuda" if wanted else "cpu"
    return device, Placement(execution.cpus_per_replica, wanted, execution.node_labels)


def _unit_seconds(execution: ExecutionSpec) -> float | None:
    return None if execution.unit_timeout == "auto" else execution.unit_timeout


def _unit_objects(job: AttributionJob, objects: int, row_bytes: int) -> int:
    if given := _given_unit_objects(job.execution):
        return given
    step = job.execution.micro_batch
    most = min(_MOST_UNIT_OBJECTS, _UNIT_BYTES // row_bytes, objects // _FEWEST_UNITS)
    return max(1, most // step) * step


def _given_unit_objects(execution: ExecutionSpec) -> int | None:
    given, step = execution.shard_objects, execution.micro_batch
    if given == "auto":
        return None
    if given % step:
        raise RefusedError(
            f"execution.shard_objects: {given} is no multiple of micro_batch {step}; "
            f"use {max(1, given // step) * step}"
        )
    return given


def _row_bytes(template: Mapping[str, ArraySpec]) -> int:
    return sum(
        int(np.prod(spec.shape)) * max(1, np.dtype(spec.dtype).itemsize)
        for spec in template.values()
    )
