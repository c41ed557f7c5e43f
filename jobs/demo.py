"""The demo: a network learns on one survey, fails on another, shows why, and is taught again."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from cluster.events import Subscriber
from training.networks import build
from training.simulation import CLASSES, PREPROCESS

from .maps.compare import ALL
from .maps.comparison import COMPARE
from .pipeline import REPORT, is_finished, run_pipeline, tasks_of
from .report.facts import RunFacts, load_facts
from .report.localisation import localise
from .report.statistics import recall
from .run.local import available_cpus
from .run.status import STORE, read_manifest
from .specs.load import make_job
from .specs.pipeline import PipelineJob
from .work.fit_files import FITS

_MAP = "mutual_information"
_METHOD = "integrated_gradients"
_METHODS: tuple[dict[str, Any], ...] = (
    {"method": "occlusion", "window": 16, "stride": 8},
    {"method": "gradient_x_input"},
    {"method": _METHOD, "steps": 16, "rule": "midpoint"},
    {"method": "mc_dropout", "samples": 20},
)
_TUNED, _SCRATCH = 0, 1
"""The fits of the step that learns survey B."""


@dataclass(frozen=True)
class DemoSizes:
    """How much the demo does."""

    training: int = 2400
    """Galaxies of survey A that are simulated to train on."""
    explained: int = 400
    """Galaxies of each survey that are explained."""
    labels: int = 80
    """Labelled galaxies of survey B that the network is taught with, a fifth of them to stop by."""
    epochs: int = 8
    """Passes over the training set of A."""
    tuning_epochs: int = 30
    """Passes, at most, over the labels of B."""


class _Cost:
    """Seconds of the demo's steps on the machine that they were measured on, with two cores."""

    PROBE = 0.05
    """What `_probe` gave there; another machine is taken to be as much slower as its probe is."""
    START = 3.0
    """Planning, and the replicas of a step."""
    SIMULATE = 0.003
    """Per galaxy and core."""
    TRAIN = 1.35e-3
    """Per view of a galaxy, on two cores."""
    EXPLAIN = 0.1
    """Per galaxy and core."""
    MAPS = 6.0
    COMPARE = 3.0
    REPORT = 6.0


def run_demo(
    folder: Path,
    say: Callable[[str], None],
    subscribers: Sequence[Subscriber] = (),
    sizes: DemoSizes = DemoSizes(),
) -> Path:
    """Run the demo's pipeline, or what is left of it, and return the path of the report.

    Parameters
    ----------
    folder : where everything goes
    say : told how long it will take
    subscribers : told the events of the pipeline and its steps
    sizes : how much is done

    Raises
    ------
    RefusedError
        If the folder holds a demo of other sizes, or of another version of Occulta.
    """
    job = demo_job(folder, sizes)
    if is_finished(job):
        say(f"{folder}: all is done before")
    else:
        cores = available_cpus()
        say(f"{_estimate(job, sizes)} on {cores} core{'s' * (cores > 1)}, in {folder}")
    run_pipeline(job, None, subscribers)
    return folder / REPORT


def demo_job(folder: Path, sizes: DemoSizes) -> PipelineJob:
    """Return the demo as the job that it is."""
    job = make_job(
        {
            "kind": "pipeline",
            "name": "demo",
            "steps": {
                "train-galaxies": _simulation("A", sizes.training, 1, "to train on"),
                "galaxies-a": _simulation("A", sizes.explained, 2, "to explain"),
                "galaxies-b": _simulation("B", sizes.explained, 2, "to explain"),
                "labelled-b": _simulation("B", sizes.labels, 3, "to learn from"),
                "train-a": _training(sizes),
                "why-a": _attribution("A", "step:train-a", "the network"),
                "why-b": _attribution("B", "step:train-a", "the network"),
                "tune-b": _tuning(sizes),
                "why-b-tuned": _attribution("B", f"step:tune-b/{_fit(_TUNED)}", "the tuned one"),
            },
            "compare": [["why-b", "why-b-tuned"]],
            "output": str(folder),
        },
        "demo",
        folder,
    )
    assert isinstance(job, PipelineJob)
    return job


def what_to_look_at(folder: Path) -> tuple[str, ...]:
    """Say in a few lines what a finished demo shows, with the numbers of its own products."""
    a, b, tuned = (
        load_facts(folder / name, partial=False) for name in ("why-a", "why-b", "why-b-tuned")
    )
    lines = (
        f"The network is right on {a.accuracy:.0%} of survey A, where it was trained, and on "
        f"{b.accuracy:.0%} of survey B.",
        recall_line(a, b),
        _tuning_line(folder),
        _evidence_line(a, b, tuned),
        _moved_line(folder / "why-b-tuned" / COMPARE),
        _map_line(b),
        f"Results: xarray.open_datatree({str(b.source.path / STORE)!r}, engine='zarr')"
        f"['{_METHOD}']",
        f"Try next: {shlex.join(next_command(folder))}",
    )
    return tuple(line for line in lines if line)


def next_command(folder: Path) -> list[str]:
    """Return a command that goes on from the demo: survey B again, with more path steps."""
    run = folder / "why-b"
    number = [section["method"] for section in _METHODS].index(_METHOD)
    finer = ["--set", f"methods.{number}.steps=64", "--out", str(folder / "why-b-64-steps")]
    return ["occulta", "run", str(run / "job.yaml"), *finer]


def recall_line(a: RunFacts, b: RunFacts) -> str:
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


def _tuning_line(folder: Path) -> str:
    """Say what a few labels of survey B do, and what they cost on survey A."""
    run = folder / "tune-b"
    fits = xr.open_dataset(run / STORE, group="fit", engine="zarr", consolidated=False)
    on_a, on_b = fits["a_accuracy"].values, fits["b_accuracy"].values
    labels = sum(read_manifest(run)["labelled"].values())
    return (
        f"Taught with {labels} labels of B, it is right on {on_b[_TUNED]:.0%} of B (a new network "
        f"with the same labels: {on_b[_SCRATCH]:.0%}) and on {on_a[_TUNED]:.0%} of A."
    )


def _evidence_line(a: RunFacts, b: RunFacts, tuned: RunFacts) -> str:
    """Say how much of the evidence in barred galaxies lies inside the bar."""
    found = [
        next((x for x in localise(facts) if (x.feature.mask, x.method) == ("bar", _METHOD)), None)
        for facts in (a, b, tuned)
    ]
    on_a, on_b, after = found
    if on_a is None or on_b is None or after is None:
        return ""
    return (
        f"In barred galaxies of A, {on_a.evidence:.0%} of the positive {_METHOD.replace('_', ' ')} "
        f"lies inside the bar, {on_a.area:.1%} of the image; on B it is {on_b.evidence:.0%} "
        f"before and {after.evidence:.0%} after: see the overlays."
    )


def _moved_line(folder: Path) -> str:
    """Say how much of the attribution moved when the network was taught survey B."""
    rows = pd.read_csv(folder / "statistics.csv")
    moved = rows[(rows["quantity"] == f"{_METHOD}_moved") & (rows["group"] == ALL)]
    share, galaxies = float(moved["change"].iloc[0]), int(moved["objects"].iloc[0])
    return (
        f"Of its {_METHOD.replace('_', ' ')} on B, {share:.0%} is elsewhere or of the other sign "
        f"after that ({galaxies:,} galaxies): {folder / f'{_METHOD}.png'}"
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


def _estimate(job: PipelineJob, sizes: DemoSizes) -> str:
    cores = available_cpus()
    simulate, explain = _Cost.SIMULATE / cores, sizes.explained * _Cost.EXPLAIN / cores
    views = sizes.training * sizes.epochs
    tuning = 2 * sizes.labels * sizes.tuning_epochs
    # Training on two threads, the two fits of the tuning on one each.
    train = _Cost.TRAIN * 2 / min(cores, 2)
    known = {
        "train-galaxies": sizes.training * simulate,
        "labelled-b": sizes.labels * simulate,
        "train-a": views * train,
        "tune-b": tuning * train + 2 * _Cost.START,
        "maps": _Cost.MAPS,
        "why-b-tuned/compare": _Cost.COMPARE,
        REPORT: _Cost.REPORT,
    }
    seconds = 0.0
    for task in tasks_of(job):
        if not task.done:
            each = explain if task.name.startswith("why") else sizes.explained * simulate
            seconds += known.get(task.name, each) + _Cost.START
    seconds *= _probe() / _Cost.PROBE
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


def _simulation(preset: str, objects: int, seed: int, purpose: str) -> dict[str, Any]:
    return {
        "about": f"simulating {objects:,} galaxies of survey {preset} {purpose}",
        "kind": "simulation",
        "preset": preset,
        "objects": objects,
        "seed": seed,
        "shard_objects": 100,
    }


def _training(sizes: DemoSizes) -> dict[str, Any]:
    return {
        "about": "training the small CNN on survey A",
        "kind": "training",
        "survey": {"format": "simulated", "path": "step:train-galaxies"},
        "classes": list(CLASSES),
        "preprocess": dict(PREPROCESS),
        "split": {"validation": 0.1, "test": 0.05},
        "fit": {"epochs": sizes.epochs},
        "execution": {"threads": 2},
    }


def _tuning(sizes: DemoSizes) -> dict[str, Any]:
    return {
        "about": f"teaching it survey B with {sizes.labels} labels, and a new one from scratch",
        "kind": "training",
        "survey": {"format": "simulated", "path": "step:labelled-b"},
        "start": "step:train-a",
        "classes": list(CLASSES),
        "split": {"validation": 0.2, "test": 0.0},
        "also_test": {
            name: {"format": "simulated", "path": f"step:galaxies-{name}"} for name in ("a", "b")
        },
        "fit": {
            "epochs": sizes.tuning_epochs,
            "patience": sizes.tuning_epochs,
            "batch_size": 16,
            "learning_rate": 1e-3,
        },
        "vary": {"transfer.strategy": ["all", "scratch"]},
    }


def _attribution(preset: str, network: str, which: str) -> dict[str, Any]:
    return {
        "about": f"explaining {which} on survey {preset}",
        "kind": "attribution",
        "network": network,
        "survey": {"format": "simulated", "path": f"step:galaxies-{preset.lower()}"},
        "methods": list(_METHODS),
        "maps": {"nside": 8, "min_count": 3},
    }


def _fit(number: int) -> str:
    return f"{FITS}/{number:04d}"
