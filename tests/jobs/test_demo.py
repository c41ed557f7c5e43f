"""The demo at a small size: every product is there, the numbers are its own, nothing twice."""

import json
import re
import shlex

import numpy as np
import pytest
import xarray as xr

from cluster.events import RunStarted, StepStarted
from jobs.demo import DemoSizes, next_command, recall_line, run_demo, what_to_look_at
from jobs.errors import RefusedError
from jobs.plan import plan_job
from jobs.report.facts import load_facts
from jobs.run.status import read_status
from jobs.specs.load import load_job

slow = pytest.mark.slow

SIZES = DemoSizes(training=160, explained=120, epochs=2, tuning_epochs=2)
RUNS = (
    "train-galaxies",
    "galaxies-a",
    "galaxies-b",
    "labelled-b",
    "train-a",
    "why-a",
    "why-b",
    "tune-b",
    "why-b-tuned",
)
EXPLAINED = ("why-a", "why-b", "why-b-tuned")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    said, told = [], []
    return folder, run_demo(folder, said.append, [told.append], SIZES), said, told


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@slow
def test_every_product_is_there(demo):
    folder, page, _, told = demo
    assert [read_status(folder / run).state for run in RUNS] == ["complete"] * 9
    assert [event.run for event in told if isinstance(event, RunStarted)] == [
        str(folder / run) for run in RUNS
    ]
    for run in EXPLAINED:
        assert (folder / run / "maps/mutual_information.png").exists()
        assert (folder / run / "maps/healpix.fits").exists()
    assert (folder / "why-b-tuned/compare/integrated_gradients.png").exists()
    assert page == folder / "report/index.html"
    assert "<html" in page.read_text()


@slow
def test_the_steps_are_numbered_after_an_estimate(demo):
    folder, _, said, told = demo
    (estimate,) = said
    assert re.fullmatch(
        rf"(less than a minute|about [\d.]+ minutes?) on \d+ cores?, in {folder}", estimate
    )
    steps = [event for event in told if isinstance(event, StepStarted)]
    assert [(step.number, step.steps, step.done) for step in steps] == [
        (number, 12, False) for number in range(1, 13)
    ]
    assert steps[0].about == "simulating 160 galaxies of survey A to train on"


def accuracy(folder, run):
    tree = xr.open_datatree(folder / run / "results.zarr", engine="zarr")
    classes = tree["prediction/class"].values
    predicted = classes[tree["prediction/logit"].values.argmax(axis=1)]
    return float(np.mean(predicted == tree["catalogue/label"].values))


@slow
def test_the_lines_at_the_end_hold_the_numbers_of_the_products(demo):
    folder, _, _, _ = demo
    lines = what_to_look_at(folder)
    assert 6 <= len(lines) <= 8
    shares = [float(share) / 100 for share in re.findall(r"(\d+)%", lines[0])]
    assert shares == pytest.approx([accuracy(folder, f"why-{s}") for s in "ab"], abs=0.0051)
    fits = xr.open_datatree(folder / "tune-b/results.zarr", engine="zarr")["fit"]
    tuned = accuracy(folder, "why-b-tuned")
    assert float(fits["b_accuracy"][0]) == pytest.approx(tuned, abs=1e-6)
    (taught,) = [line for line in lines if "80 labels" in line]
    assert f"right on {tuned:.0%} of B" in taught
    assert f"same labels: {float(fits['b_accuracy'][1]):.0%}" in taught
    assert f"on {float(fits['a_accuracy'][0]):.0%} of A" in taught
    assert all("\n" not in line for line in lines)
    (uncertain,) = [line for line in lines if "mutual information is highest" in line]
    assert uncertain.endswith(str(folder / "why-b/maps/mutual_information.png"))
    maps = xr.open_datatree(folder / "why-b/maps/maps.zarr", engine="zarr")["healpix"]
    cell = int(np.nanargmax(maps["mutual_information"].values))
    assert f"({maps['mutual_information'].values[cell]:.3f} nat" in uncertain
    assert f"RA {maps['ra'].values[cell]:.0f}, Dec {maps['dec'].values[cell]:+.0f} deg" in uncertain


def test_the_line_on_recall_names_the_class_that_suffers_most(make_content, write_run):
    content = make_content(objects=60)
    truth = np.array([content.classes.index(label) for label in content.label])
    right = np.eye(3)[truth] * 9
    wrong = right.copy()
    wrong[np.flatnonzero(truth == 1)[::2]] = [0, 0, 9]  # half of the spirals, to barred
    wrong[np.flatnonzero(truth == 0)[:1]] = [0, 0, 9]
    a, b = (
        load_facts(write_run(content.but(logit=logit), name), partial=False)
        for name, logit in (("why-a", right), ("why-b", wrong))
    )
    good = content.status == 1
    correct = (wrong.argmax(axis=1) == truth)[good]
    recall = correct[truth[good] == 1].mean()
    assert recall_line(a, b).startswith(
        f"Recall of spiral galaxies falls most, from 1.00 on A to {recall:.2f} on B"
    )
    assert recall_line(a, a) == ""


@slow
def test_the_store_opens_as_the_line_says(demo):
    folder, _, _, _ = demo
    (line,) = [line for line in what_to_look_at(folder) if line.startswith("Results: ")]
    opened = eval(line.removeprefix("Results: "), {"xarray": xr})
    assert opened["attribution"].dims == ("object", "target", "y", "x")
    assert opened["attribution"].shape[0] == SIZES.explained


@slow
def test_the_next_command_is_a_job_that_can_be_planned(demo):
    folder, _, _, _ = demo
    command = shlex.split(what_to_look_at(folder)[-1].removeprefix("Try next: "))
    assert command == next_command(folder)
    _, _, job_file, _, change, _, out = command
    job = load_job(job_file_path := folder / "why-b/job.yaml", [change])
    assert str(job_file_path) == job_file
    assert job.methods[2].method == "integrated_gradients"
    assert job.methods[2].steps == 64
    planned = plan_job(job.model_copy(update={"output": out}))
    assert planned.units.objects == SIZES.explained


@slow
def test_a_second_demo_does_nothing_twice(demo):
    folder, page, _, _ = demo
    before, said, told = files(folder), [], []
    assert run_demo(folder, said.append, [told.append], SIZES) == page
    assert files(folder) == before
    assert told == []
    assert said == [f"{folder}: all is done before"]


@slow
def test_lost_maps_are_made_again_but_no_run(demo):
    folder, page, _, _ = demo
    before = files(folder)
    (folder / "why-a/maps/mutual_information.png").unlink()
    told = []
    assert run_demo(folder, lambda _: None, [told.append], SIZES) == page
    steps = [event for event in told if isinstance(event, StepStarted)]
    assert [step.step for step in steps if not step.done] == ["maps"]
    after = files(folder)
    assert after.keys() == before.keys()
    changed = {str(path.relative_to(folder)) for path in before if before[path] != after[path]}
    assert {path for path in changed if not path.startswith("why-a/maps/")} == {
        "manifest.json",
        "job.yaml",
        "events.jsonl",
        "ledger/lease",
    }


@slow
def test_other_sizes_are_refused_by_name(demo):
    folder, _, _, _ = demo
    before = files(folder)
    sizes = DemoSizes(training=160, explained=120, epochs=3, tuning_epochs=2)
    with pytest.raises(RefusedError, match=r"train-a: spec changed .*fit\.epochs: 2 -> 3"):
        run_demo(folder, lambda _: None, [], sizes)
    assert files(folder) == before
    assert json.loads((folder / "train-a/manifest.json").read_text())["epochs"] == [2]
