"""Data never becomes code: weights, stored runs, job files, and our own source."""

from __future__ import annotations

import ast
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import attribution
import cluster
import jobs
import training
from jobs.errors import RefusedError
from jobs.specs.jobs import SimulationJob
from jobs.specs.load import dump_job, load_job, parse_yaml
from jobs.survey.describe import read_catalogue
from training.checkpoints import load_weights
from training.networks import build

PACKAGES = (attribution, cluster, jobs, training)
LINE = "kind: simulation\nname: survey\npreset: A\nobjects: 4\noutput: run\n"


class Touch:
    """A pickle that leaves a file behind when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Give every call in the sources: its file, what is called, and the call."""
    for package in PACKAGES:
        for module in Path(package.__path__[0]).rglob("*.py"):
            for node in ast.walk(ast.parse(module.read_text())):
                if isinstance(node, ast.Call):
                    yield str(module), ast.unparse(node.func), node


def test_every_load_of_tensors_is_of_weights_only() -> None:
    loads = [(place, call) for place, name, call in calls() if name == "torch.load"]
    assert len(loads) >= 2
    for place, call in loads:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("weights_only") == "True", place


FORBIDDEN = {
    "pickle.load",
    "pickle.loads",
    "eval",
    "exec",
    "torch.jit.load",
    "torch.export.load",
    "np.load",
    "numpy.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
    "joblib.load",
}


def test_nothing_in_the_sources_turns_data_into_code() -> None:
    assert [(place, name) for place, name, _ in calls() if name in FORBIDDEN] == []


def test_shells_are_never_used() -> None:
    for place, name, call in calls():
        if name.startswith("subprocess."):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert given.get("shell", "False") == "False", place


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.ckpt"])
def test_a_pickle_in_weights_is_not_run(tmp_path: Path, name: str) -> None:
    network = build("occulta:small_cnn", 2, 3)
    for number, save in enumerate((torch.save, lambda o, p: p.write_bytes(pickle.dumps(o)))):
        mark = tmp_path / f"mark-{number}"
        save({"state_dict": Touch(mark)}, tmp_path / name)
        with pytest.raises(ValueError, match="holds more than tensors or is damaged"):
            load_weights(network, tmp_path / name)
        assert not mark.exists()


def test_programs_are_no_weights(tmp_path: Path) -> None:
    network = build("occulta:small_cnn", 2, 3)
    module = torch.nn.Linear(2, 2)
    torch.export.save(torch.export.export(module, (torch.ones(1, 2),)), tmp_path / "net.pt2")
    (tmp_path / "net.pt").write_bytes((tmp_path / "net.pt2").read_bytes())
    with pytest.raises(ValueError, match=r"unknown ending '\.pt2'"):
        load_weights(network, tmp_path / "net.pt2")
    with pytest.raises(ValueError, match="holds more than tensors or is damaged"):
        load_weights(network, tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LINE + "# " + "x" * (1 << 20), "larger than 1 MiB"),
        (LINE + "x: " + "[" * 40 + "]" * 40, "nested deeper than 32 levels"),
        (LINE + "x: " + "{a: " * 40 + "1" + "}" * 40, "nested deeper than 32 levels"),
        ("a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]", "aliases are not allowed"),
        (LINE + "name: other", "field 'name' is given twice"),
        (LINE.replace("survey", "!!python/object/apply:os.system ['touch pwned']"), "job.yaml: l"),
        (LINE.replace("name: survey", "name: ../../etc"), r"name: .*found '\.\./\.\./etc'"),
        (LINE.replace("name: survey", f"name: {'x' * 64}"), "name: "),
        (LINE.replace("name: survey", "name: -rf"), "name: "),
        (LINE.replace("name: survey", "name: Survey"), "name: "),
        (LINE.replace("name: survey", 'name: "a\\nb"'), "name: "),
        ("- 1\n- 2", "expected fields"),
        ("\x00", "job.yaml"),
    ],
)
def test_a_job_file_is_data_and_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(RefusedError, match=message) as caught:
        load_job(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_a_stored_job_is_read_by_the_same_rules(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(LINE)
    job = load_job(tmp_path / "job.yaml")
    assert isinstance(job, SimulationJob)
    for name in ("1e3", "1e-3", "null", "0123"):  # text that looks like something else
        text = dump_job(job.model_copy(update={"name": name}))
        assert parse_yaml(text, "job.yaml")["name"] == name
    loads = [place for place, name, _ in calls() if name.startswith("yaml.") and "load" in name]
    assert [Path(place).name for place in loads] == ["plain_yaml.py"]


def test_a_catalogue_in_a_yaml_or_pickle_is_none(tmp_path: Path) -> None:
    from jobs.specs.survey import SurveySpec

    mark = tmp_path / "mark"
    for number, content in enumerate((pickle.dumps(Touch(mark)), yaml.dump({"id": [1]}).encode())):
        path = tmp_path / f"catalogue-{number}"
        path.write_bytes(content)
        spec = SurveySpec(format="fits", path=str(tmp_path), catalogue=str(path))
        with pytest.raises(RefusedError, match=r"can't be read as|no column of identifiers"):
            read_catalogue(spec)
    assert not mark.exists()
