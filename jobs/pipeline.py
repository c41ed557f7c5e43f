"""Run the steps of a pipeline, one after the other; what is complete is left as it is."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.clock import timestamp
from cluster.events import DriverStarted, RunFinished, StepStarted, Subscriber, announce
from cluster.place import Place, open_place, write_at
from cluster.provenance import versions

from .errors import RefusedError
from .maps import build_maps, read_store
from .maps.compare import compare_runs
from .maps.comparison import COMPARE, is_compared, write_comparison
from .plan import plan_job
from .report import write_report
from .run.driver import driving
from .run.folder import check_same, write_manifest
from .run.local import RayRunner
from .run.status import MANIFEST, check_vacant, read_manifest, read_status
from .specs.job import JobSpec
from .specs.jobs import AttributionJob
from .specs.load import dump_job, step_jobs
from .specs.pipeline import PipelineJob, needs

JOB, MAPS, REPORT = "job.yaml", "maps", "report/index.html"
"""Names in the folders of steps and of the pipeline."""
_REPORTED = ("attribution", "training", "inceptionism", "diagnostics")


@dataclass(frozen=True)
class Task:
    """A step, or what follows the steps."""

    name: str
    about: str
    done: bool
    work: Callable[[RayRunner, Sequence[Subscriber]], object]


def run_pipeline(
    job: PipelineJob,
    address: str | None = None,
    subscribers: Sequence[Subscriber] = (),
    gpus: int = 0,
) -> Place:
    """Run all steps, or those that are left; then make maps and the report.

    Parameters
    ----------
    job
        With its steps resolved.
    address
        Of an existing cluster; without one, an embedded cluster serves all steps.
    subscribers
        Told the events of the pipeline and of its steps.
    gpus
        GPUs of the machine or cluster.

    Returns
    -------
    The pipeline's folder.

    Raises
    ------
    RefusedError
        If a step is refused, or its folder holds another one.
    RunBusyError
        If another driver works on it.
    """
    run = open_place(job.output)
    _check_folder(run, job, gpus)
    if is_finished(job):
        return run
    began = time.monotonic()
    with driving(run, subscribers) as everyone, RayRunner(address) as runner:
        _begin(run, job)
        announce(DriverStarted(f"{socket.gethostname()}:{os.getpid()}"), everyone)
        tasks = tasks_of(job, gpus)
        for number, task in enumerate(tasks, start=1):
            started = StepStarted(task.name, number, len(tasks), task.about, task.done)
            announce(started, everyone)
            # Of a step that is done, this only checks that it is the same step.
            task.work(runner, subscribers)
        write_manifest(run, {**read_manifest(run), "finished": timestamp()})
        objects = read_status(run).objects
        seconds = round(time.monotonic() - began, 3)
        announce(RunFinished(objects["total"], objects["quarantined"], seconds), everyone)
    return run


def is_finished(job: PipelineJob) -> bool:
    """Tell whether a pipeline has nothing left to do."""
    run = open_place(job.output)
    if not (run / MANIFEST).exists() or "finished" not in read_manifest(run):
        return False
    same = (run / JOB).read_text(encoding="utf-8") == dump_job(job)
    return same and all(task.done for task in tasks_of(job))


def plan_steps(job: PipelineJob) -> dict[str, str]:
    """Tell of each step how much there is to do; those that wait for others can't be planned yet.

    Raises
    ------
    RefusedError
        If a step that can be planned is refused.
    """
    jobs, planned = step_jobs(job), {}
    done = {task.name for task in tasks_of(job) if task.done}
    for name, step in jobs.items():
        waits = [other for other in needs(job, name) if other not in done]
        if name in done:
            planned[name] = "complete"
        elif waits:
            planned[name] = f"after {' and '.join(waits)}"
        else:
            plan = plan_job(step)
            planned[name] = f"{plan.units.objects:,} {plan.axis}s in {len(plan.units):,} units"
    return planned


def runs_in(place: Place) -> list[Place]:
    """Return the runs of a pipeline's steps that were begun; of another folder, itself."""
    manifest = read_manifest(place)
    if manifest["kind"] != "pipeline":
        return [place]
    return [place / name for name in manifest["steps"] if (place / name / MANIFEST).exists()]


def reported_runs(place: Place) -> list[Place]:
    """Return those of `runs_in` that a report tells of; of another folder, itself."""
    runs = runs_in(place)
    return runs if runs == [place] else [r for r in runs if read_manifest(r)["kind"] in _REPORTED]


def tasks_of(job: PipelineJob, gpus: int = 0) -> list[Task]:
    """Return what a pipeline does, in order, and what of it is done."""
    jobs, about = step_jobs(job), job.about
    tasks = [_step_task(name, step, about[name], gpus) for name, step in jobs.items()]
    explained = [step for step in jobs.values() if isinstance(step, AttributionJob)]
    reported = [open_place(step.output) for step in jobs.values() if step.kind in _REPORTED]
    if job.maps and explained:
        tasks.append(_maps_task(explained))
    tasks += [
        _compare_task(*names, *(open_place(jobs[name].output) for name in names))
        for names in job.compare
    ]
    if job.report and reported:
        tasks.append(_report_task(open_place(job.output), reported))
    return tasks


def _step_task(name: str, step: JobSpec, about: str, gpus: int) -> Task:
    def work(runner: RayRunner, subscribers: Sequence[Subscriber]) -> None:
        runner.run(plan_job(step, gpus), subscribers)

    run = open_place(step.output)
    return Task(name, about, bool(None not in _results([run])), work)


def _maps_task(explained: Sequence[AttributionJob]) -> Task:
    def work(*_: object) -> None:
        for step in explained:
            if not _is_mapped(open_place(step.output)):
                build_maps(open_place(step.output), step.maps)

    done = all(_is_mapped(open_place(step.output)) for step in explained)
    return Task(MAPS, "making sky maps and mean attributions", done, work)


def _compare_task(one: str, other: str, before: Place, after: Place) -> Task:
    def work(*_: object) -> None:
        if not is_compared(before, after):
            write_comparison(compare_runs(before, after), after / COMPARE)

    about = f"comparing {other} with {one}"
    return Task(f"{other}/{COMPARE}", about, is_compared(before, after), work)


def _report_task(run: Place, reported: Sequence[Place]) -> Task:
    page = run / REPORT

    def work(*_: object) -> None:
        if not is_written():
            write_report(reported, page)
            write_manifest(run, {**read_manifest(run), "reported": _results(reported)})

    def is_written() -> bool:
        if not page.exists() or not (run / MANIFEST).exists():
            return False
        return bool(read_manifest(run).get("reported") == _results(reported))

    return Task(REPORT, "writing the report", is_written(), work)


def _results(runs: Sequence[Place]) -> list[str | None]:
    return [
        read_manifest(run).get("results_digest") if (run / MANIFEST).exists() else None
        for run in runs
    ]


def _is_mapped(run: Place) -> bool:
    """Tell whether all maps of exactly these results are there."""
    if None in _results([run]):
        return False
    try:
        product = read_store(run / MAPS)
    except (OSError, KeyError, ValueError):
        return False
    files = (product.fits, *product.figures)
    made = [product.results_digest] == _results([run])
    return made and all(file is None or file.exists() for file in files)


def _check_folder(run: Place, job: PipelineJob, gpus: int) -> None:
    """Refuse a folder of something else, or of a pipeline whose begun steps were others."""
    check_vacant(run)
    if not (run / MANIFEST).exists():
        return
    if (kind := read_manifest(run)["kind"]) != job.kind:
        raise RefusedError(f"{run}: holds a run of kind {kind}; give another --out")
    if (run / JOB).read_text(encoding="utf-8") != dump_job(job):
        for step in step_jobs(job).values():
            if (open_place(step.output) / MANIFEST).exists():
                plan = plan_job(step, gpus)
                check_same(open_place(step.output), plan.job, plan.digests, plan.device)


def _begin(run: Place, job: PipelineJob) -> None:
    """Write down what the pipeline is; it may have other steps than when it was begun."""
    write_at(run / JOB, dump_job(job).encode())
    known = read_manifest(run) if (run / MANIFEST).exists() else {"created": timestamp()}
    known.pop("finished", None)
    facts = {"kind": job.kind, "name": job.name, "steps": list(job.steps), "versions": versions()}
    write_manifest(run, {**known, **facts})
