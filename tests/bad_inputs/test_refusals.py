"""What makes a whole survey, or the network with it, meaningless is refused before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.errors import RefusedError
from jobs.plan import plan_job
from jobs.specs.load import load_job
from training.checkpoints import save_weights
from training.networks import build

JOB = """
kind: attribution
name: why
survey: {format: npy, path: cutouts, catalogue: catalogue.csv}
network:
  architecture: occulta:small_cnn
  weights: weights.safetensors
  classes: [a, b]
methods: [{method: integrated_gradients, steps: 2, targets: [predicted]}]
execution: {micro_batch: 2}
output: run
"""
METHOD = "methods.0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cutouts").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).normal(size=(3, 16, 16)).astype(np.float32)
        np.save(tmp_path / f"cutouts/{number}.npy", pixels)
    (tmp_path / "catalogue.csv").write_text("id,label\n0,a\n1,b\n2,a\n")
    torch.manual_seed(0)
    save_weights(build("occulta:small_cnn", 2, 3), tmp_path / "weights.safetensors")
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def rewrite(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def of_another_network(classes: int, bands: int) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        network = build("occulta:small_cnn", classes, bands)
        save_weights(network, folder / "weights.safetensors")

    return damage


def not_finite(folder: Path) -> None:
    network = build("occulta:small_cnn", 2, 3)
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] = float("nan")
    save_weights(network, folder / "weights.safetensors")


def cut(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:500])


def unchanged(folder: Path) -> None:
    """Leave the files as they are: the change is in the job."""


REFUSED: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "an empty catalogue": (rewrite("catalogue.csv", "id,label\n"), [], "catalogue is empty"),
    "a catalogue without its header": (rewrite("catalogue.csv", "7,8\n"), [], "no column of ident"),
    "no row with a file": (
        rewrite("catalogue.csv", "id\n7\n8\n"),
        [],
        "none of the first 2 objects can be read",
    ),
    "weights of more classes": (of_another_network(3, 3), [], "the head has 3 outputs in the file"),
    "weights of other bands": (of_another_network(2, 5), [], "don't fit the network"),
    "weights with NaN": (not_finite, [], "holds NaN or infinite numbers"),
    "weights cut off": (cut, [], "no valid safetensors file"),
    "weights of another hash": (unchanged, [f"network.sha256={'0a' * 32}"], "expected 0a0a"),
    "classes that are not the network's": (
        unchanged,
        ["network.classes=[a, b, c]"],
        "the head has 2 outputs in the file, 3 classes in the job",
    ),
    "a baseline of other bands": (unchanged, [f"{METHOD}.baseline=[0.1, 0.2]"], "baseline"),
    "a baseline that is a picture": (
        unchanged,
        [f"{METHOD}.baseline=[[0.1, 0.2], [0.1, 0.2]]"],
        "baseline",
    ),
    "a mean of other bands": (
        unchanged,
        ["network.preprocess.mean=[0.1, 0.2]"],
        "has 3 bands where 2 are expected",
    ),
    "a target that is no class": (unchanged, [f"{METHOD}.targets=[c]"], "'c'"),
    "labels that are no classes": (
        rewrite("catalogue.csv", "id,label\n0,x\n1,y\n2,x\n"),
        [f"{METHOD}.targets=[label]"],
        "label",
    ),
    "a window beyond the image": (
        unchanged,
        ["methods=[{method: occlusion, window: 64, stride: 64}]"],
        "window",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_line_and_nothing_is_written(folder: Path, name: str) -> None:
    damage, changes, message = REFUSED[name]
    damage(folder)
    with pytest.raises(RefusedError) as caught:
        plan_job(load_job(folder / "job.yaml", changes))
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert not (folder / "run").exists()


def test_the_same_job_is_planned_where_nothing_is_wrong(folder: Path) -> None:
    assert len(plan_job(load_job(folder / "job.yaml")).units) == 2
