"""Pipelines on a real Ray: stopped, changed, damaged and finished."""

import json

import pandas as pd
import pytest
import yaml

from cluster.events import RunStarted, StepStarted
from jobs.cli.app import app
from jobs.errors import RefusedError
from jobs.pipeline import plan_steps, run_pipeline, runs_in
from jobs.run.status import read_status
from jobs.specs.load import load_job

PIPELINE = {
    "kind": "pipeline",
    "name": "story",
    "output": "story",
    "steps": {
        "galaxies": {"kind": "simulation", "preset": "A", "objects": 40, "replicas": 1},
        "train": {
            "kind": "training",
            "survey": {"format": "simulated", "path": "step:galaxies"},
            "classes": ["smooth", "spiral", "barred", "edge_on"],
            "options": {"dropout": 0.1},
            "split": {"validation": 0.3, "test": 0.0},
            "fit": {"epochs": 1, "batch_size": 8},
        },
    },
}
WHY = {
    "kind": "attribution",
    "survey": {"format": "simulated", "path": "step:galaxies"},
    "network": "step:train",
    "methods": [{"method": "gradient_x_input"}],
    "execution": {"replicas": 1},
    "maps": {"nside": 1, "min_count": 1},
}


def load(folder, **changes):
    data = json.loads(json.dumps({**PIPELINE, "steps": {**PIPELINE["steps"], **changes}}))
    (folder / "story.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return load_job(folder / "story.yaml")


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    folder, told = tmp_path_factory.mktemp("pipeline"), []
    job = load(folder)
    planned = plan_steps(job)
    return job, planned, run_pipeline(job, None, [told.append]), told


def test_all_steps_run_in_their_order(story):
    _, planned, run, told = story
    assert planned == {"galaxies": "40 objects in 1 units", "train": "after galaxies"}
    steps = [(event.step, event.done) for event in told if isinstance(event, StepStarted)]
    assert steps == [("galaxies", False), ("train", False), ("report/index.html", False)]
    assert [event.run for event in told if isinstance(event, RunStarted)] == [
        str(run / "galaxies"),
        str(run / "train"),
    ]
    status = read_status(run)
    assert status.state == "complete"
    assert status.steps == {"galaxies": "complete", "train": "complete"}
    assert status.units == {"total": 2, "committed": 2, "quarantined": 0, "pending": 0}
    assert (run / "report/index.html").exists()
    assert [place.name for place in runs_in(run)] == ["galaxies", "train"]


def test_a_complete_pipeline_is_left_as_it_is(story):
    job, _, run, _ = story
    before, told = files(run), []
    assert run_pipeline(job, None, [told.append]) == run
    assert (files(run), told) == (before, [])
    assert set(plan_steps(job).values()) == {"complete"}


def test_a_step_that_was_begun_can_not_change(story):
    _, _, run, _ = story
    before = files(run)
    other = load(run.parent, galaxies={**PIPELINE["steps"]["galaxies"], "objects": 41})
    with pytest.raises(RefusedError, match=r"galaxies: spec changed .*objects: 40 -> 41"):
        run_pipeline(other)
    assert files(run) == before
    assert read_status(run).state == "complete"


def test_another_run_s_folder_is_refused(story):
    job, _, run, _ = story
    with pytest.raises(RefusedError, match="holds a run of kind simulation"):
        run_pipeline(job.model_copy(update={"output": str(run / "galaxies")}))


@pytest.mark.slow
def test_steps_can_be_added_and_damage_is_repaired(story, capsys):
    _, _, run, _ = story
    kept = files(run / "train")
    whole = load(run.parent, why=WHY, again=WHY).model_copy(update={"compare": (("why", "again"),)})
    assert run_pipeline(whole) == run
    assert files(run / "train") == kept
    compared = pd.read_csv(run / "again/compare/statistics.csv")
    assert (compared[compared["quantity"] == "accuracy"]["change"] == 0).all()
    assert (run / "why/maps/maps.zarr").exists()

    shard = max((run / "why/results.zarr/gradient_x_input").rglob("c*"), key=lambda p: p.is_file())
    shard.write_bytes(b"damaged")
    with pytest.raises(SystemExit, match="6"):
        app(["verify", str(run)], standalone_mode=False)
    assert capsys.readouterr().out.startswith("why: unit ")
    app(["verify", str(run), "--repair"], standalone_mode=False)
    assert read_status(run).state == "interrupted"
    assert read_status(run).steps["why"] != "complete"
    run_pipeline(whole)
    assert read_status(run).state == "complete"
