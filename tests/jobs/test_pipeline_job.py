"""Pipeline files: steps that use each other, and what is wrong with them in one line."""

import copy
import json

import pytest

from jobs.errors import RefusedError
from jobs.specs.load import dump_job, load_job, make_job, step_jobs
from jobs.specs.pipeline import needs
from jobs.specs.template import job_template

SURVEY = {"format": "simulated", "path": "step:galaxies"}
TRAINING = {
    "kind": "training",
    "survey": SURVEY,
    "classes": ["smooth", "spiral"],
    "options": {"dropout": 0.5},
    "preprocess": {"stretch": "asinh", "scale": 0.1},
}
PIPELINE = {
    "kind": "pipeline",
    "name": "story",
    "output": "out",
    "steps": {
        "galaxies": {"kind": "simulation", "preset": "A", "objects": 8},
        "train": TRAINING,
        "grid": {**TRAINING, "vary": {"options.dropout": [0.0, 0.5]}},
        "why": {
            "kind": "attribution",
            "about": "why it says so",
            "survey": SURVEY,
            "network": "step:train",
            "methods": [{"method": "saliency"}],
        },
    },
}


def make(tmp_path, **changes):
    data = copy.deepcopy(PIPELINE)
    for path, value in changes.items():
        step, _, field = path.partition("__")
        if field:
            data["steps"][step][field] = value
        else:
            data["steps"][step] = value
    return make_job(data, "story.yaml", tmp_path)


def test_steps_are_jobs_whose_folders_are_in_that_of_the_pipeline(tmp_path):
    jobs = step_jobs(make(tmp_path))
    assert {name: job.kind for name, job in jobs.items()} == {
        "galaxies": "simulation",
        "train": "training",
        "grid": "training",
        "why": "attribution",
    }
    assert all(job.output == f"{tmp_path}/out/{name}" for name, job in jobs.items())
    assert jobs["why"].survey.path == f"{tmp_path}/out/galaxies"


def test_a_network_is_what_the_step_will_have_trained(tmp_path):
    why = step_jobs(make(tmp_path))["why"]
    assert why.network.weights == f"{tmp_path}/out/train/weights.safetensors"
    assert why.network.classes == ("smooth", "spiral")
    assert why.network.options == {"dropout": 0.5}
    assert why.network.preprocess.stretch == "asinh"


def test_one_of_several_networks_is_named_by_its_fit(tmp_path):
    why = step_jobs(make(tmp_path, why__network="step:grid/fits/0001"))["why"]
    assert why.network.weights == f"{tmp_path}/out/grid/fits/0001/weights.safetensors"
    assert why.network.options == {"dropout": 0.5}
    other = step_jobs(make(tmp_path, why__network="step:grid/fits/0000"))["why"]
    assert other.network.options == {"dropout": 0.0}


def test_a_step_may_begin_with_the_network_of_another(tmp_path):
    tune = {"kind": "training", "survey": SURVEY, "start": "step:train", "classes": ["a", "b"]}
    job = step_jobs(make(tmp_path, why=tune))["why"]
    assert job.start.weights == f"{tmp_path}/out/train/weights.safetensors"
    assert job.preprocess.scale == 0.1


def test_what_a_step_needs_is_known_beforehand(tmp_path):
    job = make(tmp_path)
    assert [needs(job, name) for name in job.steps] == [
        [],
        ["galaxies"],
        ["galaxies"],
        ["galaxies", "train"],
    ]


def test_a_pipeline_is_read_back_as_it_was_written_down(tmp_path):
    job = make(tmp_path)
    (tmp_path / "job.yaml").write_text(dump_job(job))
    assert load_job(tmp_path / "job.yaml") == job
    assert job.about["why"] == "why it says so"
    assert job.about["train"] == "training"


def test_another_output_moves_all_steps(tmp_path):
    (tmp_path / "story.yaml").write_text(json.dumps(PIPELINE))
    job = load_job(tmp_path / "story.yaml", output=str(tmp_path / "other"))
    assert step_jobs(job)["why"].survey.path == f"{tmp_path}/other/galaxies"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"why__network": "step:nowhere"}, "steps.why: network: step:nowhere is no earlier step"),
        ({"why__network": "step:galaxies"}, "trains no network; it is a simulation job"),
        ({"why__network": "step:grid"}, "step:grid/fits/0000 is one"),
        ({"why__network": "step:train/fits/0000"}, "step:train is one"),
        ({"train__survey": {**SURVEY, "path": "step:why"}}, "step:why is no earlier step"),
        ({"train__fit": {"epoch": 3}}, "steps.train: fit.epoch: unknown field"),
        ({"train__output": "elsewhere"}, "steps.train: output: is always"),
        ({"why": {"kind": "pipeline"}}, "steps.why: kind: a pipeline can't be a step"),
        ({"why": {"kind": "poem"}}, "steps.why: kind: 'poem' is unknown"),
        ({"Why": PIPELINE["steps"]["galaxies"]}, "steps.Why"),
    ],
)
def test_what_is_wrong_with_a_step_is_one_line(tmp_path, changes, message):
    with pytest.raises(RefusedError) as error:
        make(tmp_path, **changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pair", [["why", "train"], ["nowhere", "why"]])
def test_only_attribution_steps_are_compared(tmp_path, pair):
    with pytest.raises(RefusedError, match=r"compare: (train|nowhere) is no attribution step"):
        make_job({**copy.deepcopy(PIPELINE), "compare": [pair]}, "story.yaml", tmp_path)


def test_the_template_is_a_pipeline(tmp_path):
    (tmp_path / "job.yaml").write_text(job_template("pipeline"))
    jobs = step_jobs(load_job(tmp_path / "job.yaml"))
    assert [job.kind for job in jobs.values()] == ["simulation"] * 2 + ["training", "attribution"]
