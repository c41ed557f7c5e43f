"""The commands. Heavy imports happen inside them, so that ``--help`` is instant."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.errors import StorageError
    from cluster.place import Place

    from ..plan import Plan
    from ..run.status import Status
    from ..specs.job import JobSpec

_RESUMABLE = (5, 7, 8)
"""Exit codes of runs that ended early, through no fault of their job."""

app = typer.Typer(
    name="occulta",
    help="Explain convolutional networks over whole sky surveys.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.")]
_A_RUN = "The run: a folder, or s3://bucket/prefix."
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help=_A_RUN)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]
Partial = Annotated[bool, typer.Option("--partial", help="Accept an incomplete run; marks it.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a field, as a.b=1.")
]
Out = Annotated[
    str | None,
    typer.Option("--out", help="Run folder, or s3://bucket/prefix, in place of `output`."),
]
Address = Annotated[str | None, typer.Option("--address", help="An existing Ray cluster.")]


def _accept_open(accepted: bool) -> bool:
    if accepted:
        os.environ["OCCULTA_INSECURE"] = "1"
    return accepted


Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure", callback=_accept_open, help="Accept a cluster that asks for no token."
    ),
]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Explain convolutional networks over whole sky surveys."""
    if debug:
        os.environ["OCCULTA_DEBUG"] = "1"


@app.command()
def init(
    kind: Annotated[
        str,
        typer.Argument(
            help="attribution, training, simulation, inceptionism, diagnostics, pipeline; or "
            "transfer, a training job."
        ),
    ],
) -> None:
    """Print a commented job file with every default."""
    from ..specs.template import job_template

    typer.echo(job_template(kind), nl=False)


@app.command()
def plan(
    job_file: JobFile,
    changes: Changes = None,
    out: Out = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Measure the time on a few objects of the survey.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Validate a job and print what it will cost, without running it."""
    from ..cost import seconds_per_object
    from ..pipeline import plan_steps
    from ..plan import plan_job
    from ..run.local import cluster_gpus, embedded_replicas
    from ..specs.pipeline import PipelineJob
    from ..specs.training import FitsJob

    job = _load(job_file, changes, out)
    if isinstance(job, PipelineJob):
        _print_facts({"run": job.output, "steps": plan_steps(job)}, as_json)
        return
    if probe and isinstance(job, FitsJob):
        raise typer.BadParameter("--probe measures objects; a training job has none to explain")
    with _clean_stdout():
        planned = plan_job(job, cluster_gpus(None))
    if isinstance(job, FitsJob):
        _print_facts(_training_facts(planned), as_json)
        return
    forward, backward = planned.passes
    objects = planned.units.objects
    replicas = embedded_replicas(planned)[-1]
    facts: dict[str, Any] = {
        "run": planned.job.output,
        "objects": objects,
        "quarantined": len(planned.failures),
        "missing_files": planned.missing_files,
        "units": len(planned.units),
        "objects_per_unit": planned.units.unit_objects,
        "forward_passes": round(forward * objects),
        "backward_passes": round(backward * objects),
        "result_bytes": planned.object_bytes * objects,
        "files": planned.files,
        "device": planned.device,
        "replicas": replicas,
        "replica_bytes": planned.replica_bytes,
    }
    if probe:
        with _clean_stdout():
            each = seconds_per_object(planned)
        facts["seconds_per_object"] = round(each, 4)
        facts["estimated_seconds"] = round(each * objects / min(replicas, objects), 1)
    _print_facts(facts, as_json)
    if as_json:
        return
    for failure in planned.failures[:10]:
        typer.echo(f"will be quarantined: {failure.reason}", err=True)
    if len(planned.failures) > 10:
        typer.echo(f"and {len(planned.failures) - 10} more", err=True)


def _training_facts(planned: Plan) -> dict[str, Any]:
    from ..run.local import embedded_replicas

    facts = planned.facts
    return {
        "run": planned.job.output,
        "objects": sum(facts["labelled"].values()),
        "missing_files": planned.missing_files,
        "classes": facts["labelled"],
        "parameters": facts["parameters"][-1],
        "fits": len(planned.units),
        "epochs": sum(facts["epochs"]),
        "device": planned.device,
        "replicas": embedded_replicas(planned)[-1],
    }


@app.command()
def run(
    job_file: JobFile,
    out: Out = None,
    address: Address = None,
    changes: Changes = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Run a job to its end; the same file and folder again resume it."""
    _start(_load(job_file, changes, out), address, as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Where the demo goes.")] = Path("occulta-demo"),
) -> None:
    """Simulate two surveys, train on one, explain and map both, and report."""
    from ..demo import run_demo, what_to_look_at
    from .progress import Progress

    with _clean_stdout(), Progress() as progress:
        page = run_demo(out.absolute(), progress.say, [progress])
        closing = what_to_look_at(out.absolute())
    typer.echo("\n".join(closing), err=True)
    typer.echo(page)


@app.command()
def simulate(
    job_file: JobFile,
    out: Out = None,
    address: Address = None,
    changes: Changes = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Run a job of kind simulation."""
    _start(_load(job_file, changes, out, kind="simulation"), address, as_json)


@app.command()
def train(
    job_file: JobFile,
    out: Out = None,
    address: Address = None,
    changes: Changes = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Run a job of kind training."""
    _start(_load(job_file, changes, out, kind="training"), address, as_json)


@app.command()
def resume(
    run_folder: RunFolder,
    address: Address = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Continue a run from its folder alone."""
    from ..run.folder import stored_job

    _start(stored_job(_place(run_folder)), address, as_json)


@app.command()
def layers(job_file: JobFile, changes: Changes = None, as_json: Json = False) -> None:
    """List the layers of a job's network that methods can name."""
    from attribution.weights import layer_table

    from ..preflight import open_job_network
    from ..specs.jobs import AttributionJob

    job = _load(job_file, changes, None, kind="attribution")
    assert isinstance(job, AttributionJob)
    with _clean_stdout():
        rows = layer_table(*open_job_network(job))
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    typer.echo(f"{'layer':30} {'kind':18} {'output':16} {'parameters':>12} receptive field [px]")
    for row in rows:
        shape = " x ".join(str(size) for size in row.shape)
        field = " x ".join("image" if axis is None else str(axis.size) for axis in row.field)
        typer.echo(f"{row.name:30} {row.kind:18} {shape:16} {row.parameters:>12,} {field}")


@app.command()
def top(run_folder: RunFolder, as_json: Json = False) -> None:
    """Show what each filter responds to most strongly: the lists of the method top_responses."""
    from ..toplists.build import build_top

    with _clean_stdout():
        product = build_top(_place(run_folder))
    if product.note:
        typer.echo(product.note, err=True)
    _print_files([str(product.zarr), *(str(figure) for figure in product.figures)], as_json)


@app.command()
def atlas(
    run_folder: RunFolder,
    others: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="RUN", help="A further run, into the same layout."),
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option("--layer", help="A layer; by default all of the run's.")
    ] = None,
    cells: Annotated[int, typer.Option("--cells", help="Cells along a side.")] = 20,
    minimum: Annotated[
        int, typer.Option("--minimum", help="A cell is shown if it has more objects than this.")
    ] = 10,
    steps: Annotated[int, typer.Option("--steps", help="Steps of ascent for each icon.")] = 512,
    icons: Annotated[
        bool, typer.Option("--icons/--no-icons", help="Whether each cell gets an icon.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Show what the network finds alike: the activations of the method activation_atlas."""
    from ..atlas.build import AtlasSettings, Listener, build_atlas
    from ..run.local import cluster_gpus
    from .progress import Progress

    settings = AtlasSettings(tuple(layer or ()), cells, minimum, icons, steps)
    with _clean_stdout(), Progress() as progress:
        product = build_atlas(
            _place(run_folder),
            [_place(other) for other in others or ()],
            settings,
            device="cuda" if cluster_gpus(None) else "cpu",
            listener=Listener(progress.say, progress.counter("atlas", "icons")),
        )
    for note in product.notes:
        typer.echo(note, err=True)
    _print_files([str(file) for file in (*product.stores, *product.figures)], as_json)


@app.command()
def weights(
    run_folder: RunFolder,
    layer: Annotated[
        list[str] | None, typer.Option("--layer", help="A convolution; by default all of them.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what the network of a run learned: the filters of its convolutions."""
    from ..weights import build_weights

    with _clean_stdout():
        product = build_weights(_place(run_folder), layer or ())
    for name, (dead, every) in product.dead.items():
        if dead:
            typer.echo(f"{name}: {dead:,} of {every:,} filters learned nothing", err=True)
    _print_files([str(product.zarr), *(str(figure) for figure in product.figures)], as_json)


@app.command()
def features(
    run_folder: RunFolder,
    objects: Annotated[
        list[str] | None,
        typer.Option("--object", metavar="ID", help="An object; by default the first ones."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what each filter puts out for chosen objects: pictures of the method feature_maps."""
    from ..features import build_features

    product = build_features(_place(run_folder), objects or ())
    _print_files([str(figure) for figure in product.figures], as_json)


@app.command()
def draw(run_folder: RunFolder, as_json: Json = False) -> None:
    """Show what an inceptionism run has drawn: a picture of each section's images."""
    from ..report.inception_figures import write_inception_figures

    figures = write_inception_figures(_place(run_folder))
    _print_files([str(figure) for figure in figures], as_json)


@app.command()
def status(
    run_folder: RunFolder,
    as_json: Json = False,
    keys: Annotated[bool, typer.Option("--keys", help="List the committed units.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on, a line whenever it changes, until it ends.")
    ] = False,
) -> None:
    """Tell how far a run is, from its folder alone."""
    from ..run.status import read_status

    folder = _place(run_folder)
    found = read_status(folder, keys=keys)
    shown = None
    while watch and found.state == "running":
        # Not the seconds since the last unit, which change all the time.
        facts = (found.units, found.objects, found.stalled_seconds is not None)
        if facts != shown:
            typer.echo(json.dumps(found.to_json()) if as_json else found.line())
        shown = facts
        time.sleep(1)
        found = read_status(folder, keys=keys)
    _print_facts(found.to_json(), as_json)


@app.command()
def verify(
    run_folder: RunFolder,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make damaged units pending; resume computes them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Hash every committed shard again, and name what is damaged."""
    from ..pipeline import runs_in
    from ..run.verify import repair_run, verify_run

    folder = _place(run_folder)
    found = {run: verify_run(run) for run in runs_in(folder)}
    damaged = [damage for verification in found.values() for damage in verification.damaged]
    for run, verification in found.items():
        if verification.damaged and repair:
            repair_run(run, verification)
    units, shards = (sum(getattr(v, name) for v in found.values()) for name in ("units", "shards"))
    if as_json:
        facts = {"units": units, "shards": shards, "damaged": [asdict(d) for d in damaged]}
        typer.echo(json.dumps({"run": str(folder), **facts}))
    else:
        for run, verification in found.items():
            at = "" if run == folder else f"{run.name}: "
            for damage in verification.damaged:
                typer.echo(f"{at}unit {damage.unit}: {damage.shard} is {damage.fact}")
        typer.echo(f"{units:,} units, {shards:,} shards; damaged units: {len(damaged):,}")
    if damaged:
        cure = "they are pending again" if repair else f"occulta verify {folder} --repair"
        typer.echo(f"damaged units: {len(damaged):,}; {cure}", err=True)
        if repair:
            typer.echo(f"finish the run: occulta resume {folder}", err=True)
        else:
            sys.exit(6)


@app.command()
def maps(run_folder: RunFolder, partial: Partial = False, as_json: Json = False) -> None:
    """Aggregate a run into survey-wide maps: Zarr, FITS and PNG."""
    from ..maps import build_maps
    from ..run.folder import stored_job
    from ..specs.jobs import AttributionJob
    from ..specs.maps import MapsSpec

    job = stored_job(_place(run_folder))
    spec = job.maps if isinstance(job, AttributionJob) else MapsSpec()
    product = build_maps(_place(run_folder), spec, partial=partial)
    files = [product.zarr, product.fits, *product.figures]
    _print_files([str(file) for file in files if file is not None], as_json)


@app.command()
def compare(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help=_A_RUN)],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="A run on the same objects.")],
    out: Annotated[
        str | None,
        typer.Option("--out", help="Folder of the comparison; AFTER/compare by default."),
    ] = None,
    partial: Partial = False,
    as_json: Json = False,
) -> None:
    """Say what changed between two attribution runs: maps, numbers and paired tests."""
    from ..maps.compare import compare_runs
    from ..maps.comparison import COMPARE, write_comparison

    found = compare_runs(_place(before), _place(after), partial=partial)
    product = write_comparison(found, _place(out) if out else _place(after) / COMPARE)
    for line in (*product.lines, *found.notes):
        typer.echo(line, err=True)
    _print_files([str(file) for file in product.files], as_json)


@app.command()
def select(
    run_folder: RunFolder,
    by: Annotated[
        str, typer.Option("--by", help="A number per object; the highest are chosen.")
    ] = "mutual_information",
    count: Annotated[int, typer.Option("--n", min=1, help="How many.")] = 200,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the CSV there, in place of stdout.")
    ] = None,
    exclude: Annotated[
        list[Path] | None,
        typer.Option("--exclude", metavar="CSV", help="Objects with a label: a column id."),
    ] = None,
    draw: Annotated[
        int | None,
        typer.Option(
            "--draw",
            metavar="SEED",
            min=0,
            help="Draw objects with probabilities that go with the number: they are less alike.",
        ),
    ] = None,
    partial: Partial = False,
    as_json: Json = False,
) -> None:
    """List the objects of an attribution run that are most worth labelling."""
    from cluster.place import write_at

    from ..maps.select import select_objects, selection_csv
    from ..survey.ids import read_ids

    known = {name for path in exclude or () for name in read_ids(path)}
    chosen = select_objects(_place(run_folder), by, count, known, draw=draw, partial=partial)
    text = selection_csv(chosen)
    if out is not None:
        write_at(out.absolute(), text.encode())
        _print_files([str(out.absolute())], as_json)
    elif as_json:
        typer.echo(json.dumps([vars(entry) for entry in chosen]))
    else:
        typer.echo(text, nl=False)


@app.command()
def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs, side by side on one page.")
    ],
    partial: Partial = False,
    as_json: Json = False,
) -> None:
    """Write the report, one HTML page that opens offline, into the first run's folder."""
    from ..pipeline import reported_runs
    from ..report import write_report

    folders = [_place(run) for run in runs]
    shown = [run for folder in folders for run in reported_runs(folder)]
    page = write_report(shown, folders[0] / "report" / "index.html", partial=partial)
    _print_files([str(page)], as_json)


def main() -> None:
    """Run a command; end with the exit code that design section 3 promises."""
    from cluster.errors import OccultaError

    # A full disk fails several writes at once, and zarr reports but the first of them.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    terminated = False

    def terminate(*_: object) -> None:
        nonlocal terminated
        terminated = True
        sys.exit(143)

    signal.signal(signal.SIGTERM, terminate)
    code = None
    try:
        # After Ctrl-C, typer raises nothing and returns 130.
        code = app(standalone_mode=False)
    except OccultaError as error:
        _fail(error, error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except SystemExit:
        # A signal that comes while Ray waits leaves Ray as code 1.
        if terminated:
            sys.exit(143)
        raise
    except typer.TyperException as error:
        _fail(error, 2)
    except OSError as error:
        _fail(_storage_error(error, "then run the same command again"), 7)
    sys.exit(code if isinstance(code, int) else 0)


def _storage_error(error: OSError, then: str) -> StorageError:
    from cluster.errors import StorageError

    place = error.filename or "the run folder"
    return StorageError(f"{place}: {error.strerror or error}; make room or mend the disk; {then}")


def _fail(error: Exception, code: int) -> None:
    from cluster.text import one_line, redact

    if os.environ.get("OCCULTA_DEBUG"):
        raise error
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    typer.echo(f"occulta: {redact(one_line(' '.join(message.split())))}", err=True)
    sys.exit(code)


def _start(job: JobSpec, address: str | None, as_json: bool) -> None:
    from ..pipeline import run_pipeline
    from ..plan import plan_job
    from ..run.local import cluster_gpus, run_on_ray
    from ..run.status import read_status
    from ..specs.pipeline import PipelineJob
    from .progress import Progress

    gpus = cluster_gpus(address)
    planned = None if isinstance(job, PipelineJob) else plan_job(job, gpus)
    with _resumable(job.output, address), _clean_stdout(), Progress() as progress:
        if isinstance(job, PipelineJob):
            folder = run_pipeline(job, address, [progress], gpus)
        else:
            assert planned is not None
            folder = run_on_ray(planned, address, [progress])
    _finish(folder, read_status(folder), as_json)


def _load(
    job_file: Path, changes: list[str] | None, out: str | None, kind: str | None = None
) -> JobSpec:
    from ..errors import RefusedError
    from ..specs.load import load_job

    job = load_job(job_file, changes or (), None if out is None else str(_place(out)))
    if kind not in (None, job.kind):
        raise RefusedError(f"{job_file}: kind is {job.kind}, not {kind}; `occulta run` runs any")
    return job


def _place(text: str) -> Place:
    from cluster.place import open_place

    return open_place(text)


def _finish(folder: Place, status: Status, as_json: bool) -> None:
    """Print where a run is, or facts about it; end with exit code 3 if anything is quarantined."""
    from ..run.status import QUARANTINE

    typer.echo(json.dumps(status.to_json()) if as_json else str(folder))
    counts = {"objects": status.objects["quarantined"], "fits": status.units["quarantined"]}
    if any(counts.values()):
        found = " and ".join(f"{count:,} {things}" for things, count in counts.items() if count)
        where = folder / QUARANTINE if status.steps is None else f"{QUARANTINE} of the steps"
        typer.echo(f"{found} are quarantined; see {where}", err=True)
        sys.exit(3)


@contextlib.contextmanager
def _resumable(run: str, address: str | None) -> Iterator[None]:
    """Say how to go on with a run that ends early through no fault of its job."""
    from cluster.errors import OccultaError

    how = f"to go on: occulta resume {run}" + ("" if address is None else f" --address {address}")
    try:
        yield
    except OccultaError as error:
        if error.exit_code in _RESUMABLE:
            error.args = (f"{error}; {how}",)
        raise
    except OSError as error:
        raise _storage_error(error, how) from error
    except (KeyboardInterrupt, SystemExit):
        typer.echo(how, err=True)
        raise


class _clean_stdout:  # noqa: N801 - used like a function
    """Send what libraries print to stderr: stdout is for results."""

    def __enter__(self) -> None:
        sys.stdout.flush()
        self._kept = os.dup(1)
        os.dup2(2, 1)

    def __exit__(self, *_: Any) -> None:
        sys.stdout.flush()
        os.dup2(self._kept, 1)
        os.close(self._kept)


def _print_facts(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        typer.echo(f"{name.replace('_', ' '):18} {_shown(name, value)}")


def _shown(name: str, value: Any) -> str:
    if name == "steps":
        return ", ".join(f"{step} ({state})" for step, state in value.items())
    if isinstance(value, dict):
        return ", ".join(f"{count:,} {word}" for word, count in value.items())
    if name.endswith("_bytes"):
        return f"{value / 1e6:,.1f} MB"
    if isinstance(value, float):
        return f"{value:,.3g}" if value < 100 else f"{value:,.0f}"
    if isinstance(value, list):
        return " ".join(value)
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _print_files(files: list[str], as_json: bool) -> None:
    typer.echo(json.dumps({"files": files}) if as_json else "\n".join(files))
