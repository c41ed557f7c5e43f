"""The demo: two simulated surveys, a network trained on one, explained on both."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.events import Subscriber
from training.networks import build
from training.simulation import CLASSES, PREPROCESS

from .maps import build_maps, read_store
from .plan import plan_job
from .report import write_report
from .report.facts import RunFacts, load_facts
from .report.localisation import localise
from .report.statistics import recall
from .run.local import available_cpus, run_on_ray
from .run.status import MANIFEST, read_manifest
from .specs.job import JobSpec
from .specs.jobs import AttributionJob
from .specs.load import make_job
from .specs.training import TrainingJob
from .work.fit_files import WEIGHTS

_MAP = "mutual_information"
_METHOD = "integrated_gradients"


@dataclass(frozen=True)
class DemoSizes:
    """How much the demo does."""

    training: int = 2400
    """Galaxies of survey A that are simulated to train on."""
    explained: int = 400
    """Galaxies of each survey that are explained."""
    epochs: int = 8
    """Passes over the training set."""


@dataclass(frozen=True)
class _Step:
    title: str
    """What happens, for people."""
    done: bool
    """Whether its product is there already."""
    seconds: float
    """How long it took where `_Cost` was measured."""
    work: Callable[[], object]
    """Makes the product; of a run that is complete it only checks that it is the same run."""


class _Cost:
    """Seconds of the demo's steps on the machine that they were measured on, with two cores."""

    PROBE = 0.05
    """What `_probe` gave there; another machine is taken to be as much slower as its probe is."""
    START = 8.5
    """Planning, Ray and its replicas."""
    SIMULATE = 0.003
    """Per galaxy and core."""
    TRAIN = 1.35e-3
    """Per view of a galaxy, on two cores."""
    EXPLAIN = 0.1
    """Per galaxy and core."""
    REPORT = 8.0


def run_demo(
    folder: Path,
    say: Callable[[str], None],
    subscribers: Sequence[Subscriber] = (),
    sizes: DemoSizes = DemoSizes(),
) -> Path:
    """Simulate, train, explain, map and report, and return the path of the report.

    What is complete already is not done again.

    Parameters
    ----------
    folder : where everything goes
    say : told what happens next
    subscribers : told the events of each run
    sizes : how much is done

    Raises
    ------
    RefusedError
        If the folder holds a demo of other sizes, or of another version of Occulta.
    """
    steps = _steps(folder, subscribers, sizes)
    if waiting := [step for step in steps if not step.done]:
        cores = available_cpus()
        say(f"{_estimate(waiting)} on {cores} core{'s' * (cores > 1)}, in {folder}")
    for number, step in enumerate(steps, start=1):
        say(f"[{number}/{len(steps)}] {step.title}{': done before' * step.done}")
        step.work()
    return _report(folder)


def what_to_look_at(folder: Path) -> tuple[str, ...]:
    """Say in a few lines what a finished demo shows, with the numbers of its own products."""
    a, b = (load_facts(folder / f"why-{preset}", partial=False) for preset in "ab")
    lines = (
        f"The network is right on {a.accuracy:.0%} of survey A, where it was trained, and on "
        f"{b.accuracy:.0%} of survey B.",
        _recall_line(a, b),
        _evidence_line(a),
        _map_line(b),
        f"Results: xarray.open_datatree({str(b.source.path / 'results.zarr')!r}, engine='zarr')"
        f"['{_METHOD}']",
        f"Try next: {shlex.join(next_command(folder))}",
    )
    return tuple(line for line in lines if line)


def next_command(folder: Path) -> list[str]:
    """Return a command that goes on from the demo: survey B again, with more path steps."""
    run = folder / "why-b"
    number = next(
        number
        for number, section in enumerate(_attribution(folder, "B").methods)
        if section.method == _METHOD
    )
    finer = ["--set", f"methods.{number}.steps=64", "--out", str(folder / "why-b-64-steps")]
    return ["occulta", "run", str(run / "job.yaml"), *finer]


def _recall_line(a: RunFacts, b: RunFacts) -> str:
    """Name the class that suffers most."""
    on_a, on_b = recall(a), recall(b)
    fall = np.where(np.isfinite(on_a - on_b), on_a - on_b, -np.inf)
    worst = int(fall.argmax())
    if fall[worst] <= 0:
        return ""
    name = a.classes[worst].replace("_", "-")
    return (
        f"Recall of {name} galaxies falls most, from {on_a[worst]:.2f} on A to "
        f"{on_b[worst]:.2f} on B: see the confusion matrices."
    )


def _evidence_line(facts: RunFacts) -> str:
    localised = {(entry.feature.mask, entry.method): entry for entry in localise(facts)}
    found = localised.get(("bar", _METHOD))
    if found is None:
        return ""
    return (
        f"In {found.objects} barred galaxies of A, {found.evidence:.0%} of the positive "
        f"{_METHOD.replace('_', ' ')} lies inside the bar, {found.area:.1%} of the image "
        f"({found.gain:.0f} times its share): see the overlays."
    )


def _map_line(facts: RunFacts) -> str:
    means = facts.product.sky.means.get(_MAP)
    if means is None or not np.isfinite(means.mean).any():
        return ""
    cell = int(np.nanargmax(means.mean))
    ra, dec = (centre[cell] for centre in facts.product.sky.centres())
    return (
        f"On B, mutual information is highest at RA {ra:.0f}, Dec {dec:+.0f} deg "
        f"({means.mean[cell]:.3f} nat, {means.number[cell]} galaxies; median of the sky "
        f"{np.nanmedian(means.mean):.3f}): {facts.product.path / f'{_MAP}.png'}"
    )


def _steps(folder: Path, subscribers: Sequence[Subscriber], sizes: DemoSizes) -> list[_Step]:
    cores = available_cpus()

    def on_ray(title: str, job: JobSpec, seconds: float) -> _Step:
        def work() -> None:
            run_on_ray(plan_job(job), None, subscribers)

        return _Step(title, _is_complete(job), _Cost.START + seconds / cores, work)

    steps = []
    for preset, objects, seed in (
        ("A", sizes.training, 1),
        ("A", sizes.explained, 2),
        ("B", sizes.explained, 2),
    ):
        purpose = "train on" if seed == 1 else "explain"
        title = f"simulating {objects:,} galaxies of survey {preset} to {purpose}"
        job = _simulation(folder, preset, objects, seed)
        steps.append(on_ray(title, job, objects * _Cost.SIMULATE))
    training = _training(folder, sizes.epochs)
    title = "training the small CNN on survey A"
    # On two threads, however many cores there are.
    seconds = sizes.training * sizes.epochs * _Cost.TRAIN * cores * (2 / min(cores, 2))
    steps.append(on_ray(title, training, seconds))
    jobs = [_attribution(folder, preset) for preset in ("A", "B")]
    for job, preset in zip(jobs, "AB", strict=True):
        title = f"explaining the network on {sizes.explained:,} galaxies of survey {preset}"
        steps.append(on_ray(title, job, sizes.explained * _Cost.EXPLAIN))

    runs = [Path(job.output) for job in jobs]
    mapped = all(_is_mapped(run) for run in runs)
    page = _report(folder)
    reported = mapped and page.exists() and page.stat().st_mtime >= _newest_map(runs)

    def maps() -> None:
        for job in () if mapped else jobs:
            build_maps(Path(job.output), job.maps)

    def report() -> None:
        if not reported:
            write_report([*runs, Path(training.output)], page)

    steps.append(_Step("making sky maps and mean attributions", mapped, _Cost.REPORT / 2, maps))
    steps.append(_Step("writing the report", reported, _Cost.REPORT / 2, report))
    return steps


def _is_complete(job: JobSpec) -> bool:
    run = Path(job.output)
    return (run / MANIFEST).exists() and bool(read_manifest(run).get("results_digest"))


def _is_mapped(run: Path) -> bool:
    """Tell whether all maps of exactly these results are there."""
    try:
        product = read_store(run / "maps")
    except (OSError, KeyError, ValueError):
        return False
    files = (product.fits, *product.figures)
    made = product.results_digest == read_manifest(run).get("results_digest")
    return made and all(file.exists() for file in files)


def _newest_map(runs: Sequence[Path]) -> float:
    return max((run / "maps" / "maps.zarr").stat().st_mtime for run in runs)


def _estimate(steps: Sequence[_Step]) -> str:
    seconds = sum(step.seconds for step in steps) * _probe() / _Cost.PROBE
    if seconds < 45:
        return "less than a minute"
    minutes = math.ceil(seconds / 30) / 2
    return f"about {minutes:g} minute{'s' * (minutes > 1)}"


def _probe() -> float:
    """Measure the machine: the fastest of a few passes of a batch forward and backward, seconds.

    With one thread: on a busy machine two that wait for each other can take ten times as long.
    """
    with torch.random.fork_rng():
        network = build("occulta:small_cnn", len(CLASSES))
    images = torch.zeros(32, 3, 64, 64)
    threads = torch.get_num_threads()
    seconds = []
    torch.set_num_threads(1)
    try:
        for _ in range(6):
            began = time.perf_counter()
            network(images).sum().backward()
            seconds.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return min(seconds)


def _report(folder: Path) -> Path:
    return folder / "report" / "index.html"


def _simulation(folder: Path, preset: str, objects: int, seed: int) -> JobSpec:
    job: JobSpec = _job(
        folder,
        kind="simulation",
        name=f"survey-{preset.lower()}-{seed}",
        preset=preset,
        objects=objects,
        seed=seed,
        shard_objects=100,
    )
    return job


def _training(folder: Path, epochs: int) -> TrainingJob:
    job = _job(
        folder,
        kind="training",
        name="train-a",
        survey={"format": "simulated", "path": "survey-a-1"},
        classes=list(CLASSES),
        preprocess=dict(PREPROCESS),
        split={"validation": 0.1, "test": 0.05},
        fit={"epochs": epochs},
        execution={"threads": 2},
    )
    assert isinstance(job, TrainingJob)
    return job


def _attribution(folder: Path, preset: str) -> AttributionJob:
    job = _job(
        folder,
        kind="attribution",
        name=f"why-{preset.lower()}",
        survey={"format": "simulated", "path": f"survey-{preset.lower()}-2"},
        network={
            "architecture": "occulta:small_cnn",
            "weights": f"train-a/{WEIGHTS}",
            "classes": list(CLASSES),
            "preprocess": dict(PREPROCESS),
        },
        methods=[
            {"method": "occlusion", "window": 16, "stride": 8},
            {"method": "gradient_x_input"},
            {"method": _METHOD, "steps": 16, "rule": "midpoint"},
            {"method": "mc_dropout", "samples": 20},
        ],
        maps={"nside": 8, "min_count": 3},
    )
    assert isinstance(job, AttributionJob)
    return job


def _job(folder: Path, **fields: Any) -> Any:
    return make_job({**fields, "output": fields["name"]}, f"demo {fields['name']}", folder)
