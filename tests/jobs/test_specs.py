"""Job files: what is accepted comes back whole, what is wrong is told in one line."""

import pytest

from jobs.errors import RefusedError
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
        ("window: 32", "window: wide", r"methods\[0\]\.window: .*integer, found 'wide'"),
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
