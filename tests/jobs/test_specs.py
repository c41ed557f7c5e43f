"""Job files: what is accepted comes back whole, what is wrong is told in one line."""

import numpy as np
import pytest
import zarr

from cluster.pool import SerialPool
from jobs.errors import RefusedError
from jobs.plan import plan_job
from jobs.run.execute import execute
from jobs.specs.load import dump_job, load_job, make_job, parse_yaml
from jobs.specs.template import job_template

JOB = """\
kind: attribution
name: why
survey: {format: fits, path: cutouts, catalogue: g.parquet}
network: {architecture: "occulta:small_cnn", weights: a.safetensors, classes: [a, b]}
methods:
  - {method: occlusion, window: 32, stride: 16}
  - {method: mc_dropout, samples: 10}
execution: {seed: 7}
output: runs/why
"""


def load(tmp_path, text, *changes):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return load_job(path, changes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("window", "windw", r"methods\[0\]\.windw: unknown field; did you mean 'window'\?"),
        ("method: occlusion", "method: oclusion", r"methods\[0\]: .* did you mean 'occlusion'\?"),
        ("window: 32", "window: wide", r"methods\[0\]\.window: .*integer or a list, found 'wide'"),
        ("name: why", "name: ../x", r"name: .* found '\.\./x'"),
        ("kind: attribution", "kind: atribution", r"kind: 'atribution' is unknown"),
        ("samples: 10", "samples: yes", r"methods\[1\]\.samples: .*integer, found True"),
        ("output: runs/why\n", "", r"output: is missing; add it"),
        ("name: why", "name: why\nname: x", r"line 3, column 1: field 'name' is given twice"),
        ("stride: 16", "stride: 64", r"methods\[0\]: stride 64 is larger than window 32"),
        ("seed: 7", "seed: -1", r"execution\.seed: .*greater than or equal to 0, found -1"),
        ("mc_dropout, samples: 10", "occlusion, window: 8, stride: 8", "names occlusion twice"),
        ("seed: 7", "seed: &x 7, micro_batch: *x", "aliases are not allowed"),
        ("name: why", "name: [", "job.yaml"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, old, new, message):
    assert old in JOB
    with pytest.raises(RefusedError, match=message) as caught:
        load(tmp_path, JOB.replace(old, new, 1))
    assert str(caught.value).startswith("job.yaml:")
    assert "\n" not in str(caught.value)


PATHS = "{method: integrated_gradients, FIELDS}"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            "baseline: white",
            r"methods\[0\]\.baseline: input should be 'black', a valid number, a list or "
            r"'image_mean', 'blur' or 'sky_noise', found 'white'",
        ),
        ("baseline: [0.1, x]", r"methods\[0\]\.baseline\[1\]: .*a valid number, found 'x'"),
        ("baseline: []", r"methods\[0\]: baseline is \(\); choose a finite number, one per chann"),
        ("baseline: .inf", r"methods\[0\]: baseline is inf; choose a finite number"),
        ("baselin: blur", r"methods\[0\]\.baselin: unknown field; did you mean 'baseline'\?"),
        ("draws: 3", r"methods\[0\]: draws is 3, but all draws of baseline 'black' are the same"),
        ("baseline: sky_noise, draws: 0", r"methods\[0\]: draws is 0; take 1 or more"),
        ("baseline: blur, blur_sigma: 0", r"methods\[0\]: blur_sigma is 0\.0; choose 0\.1 to 1000"),
        ("tolerance: 0", r"methods\[0\]: tolerance is 0\.0; choose a number above 0"),
        ("tolerance: small", r"methods\[0\]\.tolerance: .*a valid number, found 'small'"),
        ("tolerance: 0.1, max_steps: 9", r"methods\[0\]: max_steps is 9, less than steps, 50"),
    ],
)
def test_mistakes_about_paths_are_told_alone(tmp_path, fields, message):
    lines = JOB.splitlines(keepends=True)
    methods = "".join(line for line in lines if line.startswith("  - "))
    with pytest.raises(RefusedError, match=f"^job.yaml: (.*; job.yaml: )?{message}") as caught:
        load(tmp_path, JOB.replace(methods, f"  - {PATHS.replace('FIELDS', fields)}\n"))
    # The one method of the job is wrong, which is not to say that there is none.
    assert "at least 1" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a, b]", "]", r"network\.classes: .* at least 1 item"),
        ("window: 32, stride: 16", "window: 4, stride: 4, targets: []", "targets: .* at least 1"),
    ],
)
def test_lists_that_are_too_short_are_refused(tmp_path, old, new, message):
    assert old in JOB
    with pytest.raises(RefusedError, match=message):
        load(tmp_path, JOB.replace(old, new, 1))


@pytest.mark.parametrize("written", ["black", "0.5", "[0.5, -1, 2]", "blur", "sky_noise"])
def test_baselines_come_back_as_they_were_written(tmp_path, written):
    changes = f"methods=[{PATHS.replace('FIELDS', f'baseline: {written}')}]"
    job = load(tmp_path, JOB, changes)
    value = {"0.5": 0.5, "[0.5, -1, 2]": (0.5, -1.0, 2.0)}.get(written, written)
    assert job.methods[0].request().method.baseline == value
    assert make_job(parse_yaml(dump_job(job), "x"), "x", tmp_path) == job


def test_paths_start_at_the_job_file(tmp_path):
    job = load(tmp_path, JOB)
    assert job.output == str(tmp_path / "runs/why")
    assert job.survey.path == str(tmp_path / "cutouts")
    assert job.survey.catalogue == str(tmp_path / "g.parquet")
    assert job.network.weights == str(tmp_path / "a.safetensors")


def test_dump_holds_every_default_and_loads_the_same(tmp_path):
    job = load(tmp_path, JOB)
    text = dump_job(job)
    assert "micro_batch: 32" in text
    assert "masks: per_object" in text
    assert make_job(parse_yaml(text, "x"), "x", tmp_path) == job


def test_set_replaces_fields_and_list_entries(tmp_path):
    job = load(tmp_path, JOB, "execution.seed=9", "methods.0.stride=8", "maps.nside=16")
    assert job.execution.seed == 9
    assert job.methods[0].stride == 8
    assert job.maps.nside == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed", "expected key=value"),
        ("methods.9.stride=1", "no position in a list of 2"),
        ("name.x=1", "has no fields"),
    ],
)
def test_bad_set_is_refused(tmp_path, change, message):
    with pytest.raises(RefusedError, match=message):
        load(tmp_path, JOB, change)


def test_scientific_notation_is_a_number(tmp_path):
    job = load(tmp_path, JOB.replace("classes", "preprocess: {scale: 1e-3}, classes"))
    assert job.network.preprocess.scale == 0.001


def test_identity_leaves_out_what_results_do_not_depend_on(tmp_path):
    job = load(tmp_path, JOB)
    same = load(tmp_path, JOB, "execution.replicas=5", "output=x", "maps.nside=1", "name=other")
    other = load(tmp_path, JOB, "execution.micro_batch=16")
    assert job.identity() == same.identity()
    assert job.identity() != other.identity()


@pytest.mark.parametrize("kind", ["attribution", "simulation"])
def test_templates_are_valid_jobs(tmp_path, kind):
    assert load(tmp_path, job_template(kind)).kind == kind


def test_missing_file_names_the_cure(tmp_path):
    with pytest.raises(RefusedError, match="occulta init attribution"):
        load_job(tmp_path / "none.yaml")


SIMULATION = "kind: simulation\nname: s\npreset: A\nobjects: 24\nshard_objects: 24\noutput: run\n"


def test_a_simulated_survey_may_differ_from_its_preset(tmp_path):
    model = "model={seeing: 2.5, class_mix: [0.0, 0.0, 1.0, 0.0], size: 32, name: blurred}"
    run = execute(plan_job(load(tmp_path, SIMULATION, model)), SerialPool)
    found = zarr.open_group(run / "results.zarr", mode="r")
    assert found["cutout/image"].shape == (24, 3, 32, 32)
    assert set(found["catalogue/label"][...]) == {"barred"}
    assert str(found["catalogue/id"][...][0]).startswith("blurred-")
    assert 1.5 < np.median(found["catalogue/seeing"][...]) / 1.3 < 2.5
    assert load_job(run / "job.yaml").survey_model.seeing == 2.5


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{seing: 2}", r"model\.seing: unknown field; did you mean 'seeing'\?"),
        ("{seeing: -1}", r"model: .*seeing = -1\.0 must be positive"),
        ("{class_mix: [1, 2]}", r"model: .*needs 4 shares"),
        ("{footprint: [{ra_min: 1}]}", r"model\.footprint\.0\.ra_max"),
    ],
)
def test_a_survey_that_can_not_be_is_refused(tmp_path, model, message):
    with pytest.raises(RefusedError, match=message) as caught:
        load(tmp_path, SIMULATION, f"model={model}")
    assert "\n" not in str(caught.value)
