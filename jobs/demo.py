"""The demo: two simulated surveys, a network trained on one, explained on both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.simulation import CLASSES, PREPROCESS

from .maps import build_maps
from .plan import plan_job
from .report import write_report
from .run.events import Subscriber
from .run.local import run_on_ray
from .run.train import WEIGHTS, train
from .specs.jobs import AttributionJob, TrainingJob
from .specs.load import make_job


def run_demo(
    folder: Path, say: Callable[[str], None], subscribers: Sequence[Subscriber] = ()
) -> Path:
    """Simulate, train, explain, map and report, and return the path of the report.

    Parameters
    ----------
    folder : where everything goes; what is there already is not done again
    say : told what happens next
    subscribers : told the events of each run
    """
    for preset, objects, seed in (("A", 2400, 1), ("A", 400, 2), ("B", 400, 2)):
        name = f"survey-{preset.lower()}-{seed}"
        say(f"simulating {objects} galaxies of survey {preset}")
        job = _job(
            folder,
            kind="simulation",
            name=name,
            preset=preset,
            objects=objects,
            seed=seed,
            shard_objects=100,
        )
        run_on_ray(plan_job(job), None, subscribers)
    say("training the small CNN on survey A")
    training = train(_training(folder), subscribers)
    runs = []
    for preset in ("A", "B"):
        say(f"explaining the network on survey {preset}")
        job = _attribution(folder, preset)
        runs.append(run_on_ray(plan_job(job), None, subscribers))
        build_maps(runs[-1], job.maps)
    say("writing the report")
    return write_report(runs, folder / "report" / "index.html", training=training)


def _training(folder: Path) -> TrainingJob:
    job = _job(
        folder,
        kind="training",
        name="train-a",
        survey={"format": "simulated", "path": "survey-a-1"},
        classes=list(CLASSES),
        preprocess=dict(PREPROCESS),
        test=0.05,
        validation=0.1,
        fit={"epochs": 8},
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
            {"method": "integrated_gradients", "steps": 16, "rule": "midpoint"},
            {"method": "mc_dropout", "samples": 20},
        ],
        maps={"nside": 8, "min_count": 3},
    )
    assert isinstance(job, AttributionJob)
    return job


def _job(folder: Path, **fields: Any) -> Any:
    return make_job({**fields, "output": fields["name"]}, f"demo {fields['name']}", folder)
