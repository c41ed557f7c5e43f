"""Commands for jobs on an existing cluster: their drivers run there."""

from __future__ import annotations

import json
import secrets
import shlex
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from .app import Changes, Insecure, JobFile, Json, Out, _clean_stdout, _load, _place, app

if TYPE_CHECKING:
    from cluster.submission import Submissions

ClusterAddress = Annotated[
    str,
    typer.Option("--address", help="The cluster: http://HEAD:8265, or HEAD:6379 near the head."),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="What `submit` printed.")]


@app.command()
def submit(
    job_file: JobFile,
    address: ClusterAddress,
    name: Annotated[str | None, typer.Option("--name", help="The job's id on the cluster.")] = None,
    out: Out = None,
    changes: Changes = None,
    python: Annotated[
        str, typer.Option("--python", help="The interpreter on the cluster that has occulta.")
    ] = "python",
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Hand a job to an existing Ray cluster, and print its id."""
    from ..specs.load import dump_job

    job = _load(job_file, changes, out)
    if name is None:
        name = f"{job.name[:56]}-{secrets.token_hex(3)}"
    job_id = _open(address).submit(name, dump_job(job), job.output, python)
    where = shlex.quote(address) + (" --insecure" if insecure else "")
    typer.echo(json.dumps({"id": job_id, "run": job.output}) if as_json else job_id)
    typer.echo(
        f"how far it is:  occulta status {shlex.quote(job.output)} --watch\n"
        f"what it prints: occulta logs {job_id} --address {where} --follow\n"
        f"to stop it:     occulta stop {job_id} --address {where}",
        err=True,
    )


@app.command("list")
def list_jobs(address: ClusterAddress, insecure: Insecure = False, as_json: Json = False) -> None:
    """List the jobs that were submitted to a cluster."""
    from cluster.text import one_line

    jobs = _open(address).list()
    if as_json:
        typer.echo(json.dumps([asdict(job) for job in jobs]))
        return
    for job in jobs:
        typer.echo(one_line(f"{job.id:40} {job.state:10} {job.run}"))


@app.command()
def logs(
    job_id: JobId,
    address: ClusterAddress,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends; end as it does.")
    ] = False,
    insecure: Insecure = False,
) -> None:
    """Print what a submitted job prints."""
    from cluster.text import one_line, redact

    jobs = _open(address)
    rest = ""
    for chunk in jobs.follow(job_id) if follow else [jobs.logs(job_id)]:
        *lines, rest = (rest + chunk).split("\n")
        for line in lines:
            typer.echo(redact(one_line(line)))
    if rest:
        typer.echo(redact(one_line(rest)))
    if follow:
        sys.exit(jobs.get(job_id).exit_code or 0)


@app.command()
def stop(
    target: Annotated[
        str,
        typer.Argument(metavar="RUN|ID", help="A run folder; with --address, a submitted job."),
    ],
    address: Annotated[
        str | None, typer.Option("--address", help="The cluster that the job was submitted to.")
    ] = None,
    insecure: Insecure = False,
) -> None:
    """Stop a run, wherever its driver is; what it has committed stays."""
    if address is None:
        from ..run.stop import stop_run

        run = str(_place(target))
        stop_run(_place(target))
        typer.echo(f"{run}: stopped", err=True)
    else:
        found = _open(address).stop(target)
        run = found.run
        typer.echo(f"{found.id}: {found.state}", err=True)
    if run:
        typer.echo(f"to go on: occulta resume {shlex.quote(run)}", err=True)


def _open(address: str) -> Submissions:
    # Ray's client says on stdout what it uploads.
    with _clean_stdout():
        from cluster.submission import Submissions

        return Submissions(address)
