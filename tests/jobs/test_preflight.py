"""What would be silently meaningless is refused by the plan, with the reason and the cure."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from astropy.io import fits

from cluster.pool import SerialPool
from jobs.errors import RefusedError
from jobs.plan import plan_job
from jobs.run.execute import execute
from jobs.specs.load import load_job
from training.checkpoints import save_weights
from training.networks import build

JOB = """
kind: attribution
name: why
survey: {format: fits, path: cutouts}
network:
  architecture: ARCHITECTURE
  weights: WEIGHTS
  classes: [smooth, spiral, barred]
methods: METHODS
output: run
"""
NETWORKS = {
    "small": "occulta:small_cnn",
    "resnet": "torchvision:resnet18",
    "silu": "torchvision:efficientnet_b0",
    "gelu": "timm:convnext_atto",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preflight")
    (folder / "cutouts").mkdir()
    image = np.random.default_rng(0).normal(size=(3, 64, 64)).astype(">f4")
    fits.writeto(folder / "cutouts/g.fits", image)
    torch.manual_seed(0)
    for name, architecture in NETWORKS.items():
        save_weights(build(architecture, 3, 3), folder / f"{name}.safetensors")
    return folder


def job_file(folder, network, methods):
    text = JOB.replace("ARCHITECTURE", NETWORKS[network])
    text = text.replace("WEIGHTS", f"{network}.safetensors").replace("METHODS", json.dumps(methods))
    path = folder / "job.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("network", "method", "fact"),
    [
        ("silu", {"method": "deconvnet"}, "uses silu: the result would be the plain gradient"),
        (
            "gelu",
            {"method": "guided_backprop"},
            "uses gelu: the result would be the plain gradient",
        ),
        ("resnet", {"method": "mc_dropout"}, "no dropout"),
        (
            "resnet",
            {"method": "feature_maps", "layers": ["layer9"]},
            "layer 'layer9': the network has no such layer; did you mean layer4",
        ),
        (
            "resnet",
            {"method": "grad_cam", "layer": "layer5"},
            "layer 'layer5': the network has no such layer",
        ),
        ("small", {"method": "saliency", "targets": [3]}, "3"),
        (
            "small",
            {"method": "saliency", "targets": ["bared"]},
            "nor one of the classes smooth, spiral, barred",
        ),
        (
            "small",
            {"method": "integrated_gradients", "baseline": [0.1, 0.2]},
            "baseline has 2 values, the image has 3 channels",
        ),
        (
            "small",
            {"method": "occlusion", "window": 80, "stride": 8},
            "window 80x80 is larger than the image, 64x64",
        ),
        ("small", {"method": "occlusion", "window": 8, "stride": 9}, "stride"),
        ("small", {"method": "top_responses", "layers": ["head.1"]}, "name a convolution"),
        (
            "small",
            {"method": "attribution_uncertainty", "of": "integrated_gradients", "steps": 1},
            "steps is 1",
        ),
        ("small", {"method": "deletion"}, "nothing to judge"),
    ],
)
def test_what_makes_no_sense_is_refused(folder, network, method, fact):
    with pytest.raises(RefusedError) as caught:
        plan_job(load_job(job_file(folder, network, [method])))
    text = str(caught.value)
    assert fact in text
    assert text.startswith(("methods[0]", "job.yaml: "))
    assert "\n" not in text


def test_a_refusal_ends_with_code_2_and_leaves_no_run(folder):
    command = [str(Path(sys.executable).with_name("occulta")), "run"]
    path = job_file(folder, "silu", [{"method": "deconvnet"}])
    done = subprocess.run([*command, path], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert not (folder / "run").exists()


NET = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(3, classes)

    def forward(self, x):
        return FORWARD

def build(classes, bands):
    return Net(classes)
"""
MEANS = "self.head(x.mean((2, 3)))"


def own_network(folder, forward):
    """Write a job file with a network of the user's own."""
    (folder / "net.py").write_text(NET.replace("FORWARD", forward))
    space = {}
    exec(NET.replace("FORWARD", forward), space)
    torch.manual_seed(0)
    save_weights(space["build"](3, 3), folder / "own.safetensors")
    text = JOB.replace("METHODS", "[{method: saliency}]").replace("WEIGHTS", "own.safetensors")
    text = text.replace("architecture: ARCHITECTURE", "architecture: file:net.py:build")
    path = folder / "own.yaml"
    path.write_text(text.replace("  classes:", "  trust: code\n  classes:"))
    return path


@pytest.mark.parametrize(
    ("forward", "fact"),
    [
        (f"{MEANS} / 0", "its logits are not finite, neither for a black image nor for noise"),
        (f"{MEANS}.fill_(float('nan'))", "or take an earlier checkpoint"),
        (
            "nn.functional.dropout(self.head(x.amax((2, 3))), 0.5, True)",
            "it answers the same image differently each time, by ",
        ),
        (f"{MEANS} + torch.rand(1)", "must be an nn.Dropout, which mc_dropout samples"),
    ],
)
def test_a_network_whose_answers_mean_nothing_is_refused(folder, forward, fact):
    before = torch.get_rng_state()
    path = own_network(folder, forward)
    torch.set_rng_state(before)
    with pytest.raises(RefusedError) as caught:
        plan_job(load_job(path))
    assert torch.equal(torch.get_rng_state(), before)
    text = str(caught.value)
    assert fact in text
    assert text.startswith("network: ")
    assert "\n" not in text


@pytest.mark.parametrize(
    "forward",
    [
        # Either makes nonsense of one of the images that are tried, and sense of galaxies.
        "self.head(((x - x.mean()) / x.std()).amax((2, 3)))",
        "self.head(torch.sqrt(x).mean((2, 3)))",
    ],
)
def test_a_network_that_can_not_answer_for_every_image_is_accepted(folder, forward):
    assert plan_job(load_job(own_network(folder, forward))).units.objects == 1


def test_an_object_whose_output_is_not_finite_is_quarantined_alone(folder, tmp_path):
    path = job_file(folder, "small", [{"method": "saliency"}])
    alone = execute(plan_job(load_job(path, [f"output={tmp_path / 'alone'}"])), SerialPool)
    survey = tmp_path / "cutouts"
    shutil.copytree(folder / "cutouts", survey)
    # Finite in float32 itself, but not after a few layers.
    huge = np.full((3, 64, 64), 3e38, dtype=">f4")
    huge[0, 0, 0] = 1e38
    fits.writeto(survey / "h.fits", huge)
    changes = [f"survey.path={survey}", f"output={tmp_path / 'run'}"]
    both = execute(plan_job(load_job(path, changes)), SerialPool)
    rows = (both / "quarantine.csv").read_text().splitlines()
    assert len(rows) == 2
    assert rows[1].startswith("h,")
    assert "non_finite_output" in rows[1]
    before, after = (
        zarr.open_group(run / "results.zarr", mode="r")["saliency/attribution"]
        for run in (alone, both)
    )
    np.testing.assert_array_equal(after[0], before[0])
    assert np.isnan(after[1]).all()
