"""What a plan will cost in time: measured on the survey's first objects, before the run."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from cluster.ledger import Ledger
from cluster.pool import SerialPool
from cluster.unit import UnitGrid

from .errors import RefusedError
from .plan import Plan
from .run.execute import execute
from .run.status import STORE
from .specs.jobs import AttributionJob
from .survey import Catalogue, Cutout, open_reader
from .work.attribution import AttributionWorkload

_TRIED = 1000
"""How many leading objects may be unreadable."""


def seconds_per_object(plan: Plan) -> float:
    """Measure the time that one replica takes per object.

    One object and then two go the whole way, from file to shard, in a temporary run. The
    difference is what an object costs; the rest is what a micro-batch costs, full or not.

    Raises
    ------
    RefusedError
        If fewer than two objects can be read.
    """
    catalogue = _readable(plan, 2)
    _run_part(plan, catalogue, 1)  # the first passes of a process are slow
    one, two = (_run_part(plan, catalogue, objects) for objects in (1, 2))
    each = max(two - one, 0.0)
    shared = max(one - each, 0.0)
    return each + shared / min(plan.micro_batch, plan.units.objects)


def _readable(plan: Plan, wanted: int) -> Catalogue | None:
    """Return the first objects that can be read, where the objects are known beforehand."""
    if plan.catalogue is None:
        return None
    assert isinstance(plan.job, AttributionJob)
    reader = open_reader(plan.job.survey)
    refused = {failure.index for failure in plan.failures}
    found: list[int] = []
    for row in range(min(_TRIED, len(plan.catalogue))):
        if row not in refused:
            (answer,) = reader.read(plan.catalogue.slice(row, row + 1))
            found += [row] * isinstance(answer, Cutout)
        if len(found) == wanted:
            return plan.catalogue.take(found)
    raise RefusedError(
        f"--probe: {len(found)} of the first {_TRIED} objects can be read, it takes {wanted}; "
        "plan without --probe"
    )


def _run_part(plan: Plan, catalogue: Catalogue | None, objects: int) -> float:
    """Run a few objects in a folder of their own, and return the replica's seconds."""
    with tempfile.TemporaryDirectory(prefix="occulta-probe-") as folder:
        workload = plan.workload
        if isinstance(workload, AttributionWorkload):
            workload = replace(workload, store=Path(folder) / STORE)
        part = replace(
            plan,
            job=plan.job.model_copy(update={"output": folder}),
            workload=workload,
            units=UnitGrid(objects, plan.units.unit_objects),
            catalogue=catalogue.slice(0, objects) if catalogue else None,
            failures=(),
        )
        (receipt,) = Ledger(execute(part, SerialPool) / "ledger").receipts()
    return receipt.seconds
