"""Networks of a job: a trusted file alone, weights that fit; or one line that says why not."""

import hashlib
import os
import pickle
import sys
from collections import OrderedDict

import lightning
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from attribution import MCDropout, explain
from cluster.pool import SerialPool
from jobs.errors import RefusedError
from jobs.plan import plan_job
from jobs.run.execute import execute
from jobs.specs.load import load_job
from jobs.specs.network import NetworkSpec
from jobs.work.network import network_identity, open_network
from training.checkpoints import network_digest, save_weights
from training.networks import build

NET = """\
from torch import nn

def build(classes, bands, width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(bands * 4, width), nn.Linear(width, classes))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    torch.manual_seed(0)
    save_weights(own(), tmp_path / "own.safetensors")
    save_weights(build("occulta:small_cnn", 2, 3), tmp_path / "small.safetensors")
    return tmp_path


def own(classes=2, bands=3, width=4):
    space = {}
    exec(NET, space)
    return space["build"](classes, bands, width)


def spec(folder, architecture="file:net.py:build", weights="own.safetensors", **fields):
    scheme, _, rest = architecture.partition(":")
    if scheme == "file":
        architecture = f"file:{folder}/{rest}"
        fields = {"trust": "code", **fields}
    fields = {"classes": ("a", "b"), **fields}
    return NetworkSpec(architecture=architecture, weights=str(folder / weights), **fields)


def small(folder, **fields):
    return spec(folder, "occulta:small_cnn", **{"weights": "small.safetensors", **fields})


def refusal(network, bands=3):
    with pytest.raises(RefusedError) as caught:
        open_network(network, bands)
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert text.startswith("network")
    assert "\n" not in text
    return text


def test_a_users_file_is_built_with_classes_bands_and_options(folder):
    save_weights(own(3, 2, 5), folder / "w.safetensors")
    network = open_network(
        spec(folder, weights="w.safetensors", classes=("a", "b", "c"), options={"width": 5}), 2
    )
    assert network(torch.zeros(1, 2, 2, 2)).shape == (1, 3)
    assert network_digest(network) == network_digest(
        _loaded(own(3, 2, 5), folder / "w.safetensors")
    )
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())


def _loaded(network, path):
    network.load_state_dict(safetensors.torch.load_file(path))
    return network


def test_code_that_is_not_trusted_is_not_run(folder):
    (folder / "net.py").write_text("import os\nos.mkdir('ran')\n" + NET)
    text = refusal(spec(folder, trust=None))
    assert "net.py is code that would run with your rights" in text
    assert "trust: code" in text
    assert not (folder / "ran").exists()


def test_nothing_beside_the_file_is_imported(folder, monkeypatch):
    """Not even where it shadows our own packages, in the working directory."""
    for name in ("jobs.py", "helper.py"):
        (folder / name).write_text(f"raise SystemExit('{name} was imported')")
    (folder / "training").mkdir()
    (folder / "training/__init__.py").write_text("raise SystemExit('training was imported')")
    monkeypatch.chdir(folder)
    source = "import jobs.errors\nimport training.networks\nours = training.networks.__file__\n"
    (folder / "net.py").write_text(source + NET)
    before = list(sys.path), set(sys.modules)
    open_network(spec(folder), 3)
    assert sys.path == before[0]
    assert all(name.startswith("occulta_user_network") for name in set(sys.modules) - before[1])
    (folder / "net.py").write_text("import helper\n" + NET)
    text = refusal(spec(folder))
    assert "net.py line 1 can't be imported: ModuleNotFoundError: No module named 'helper'" in text
    assert "files beside it are not searched: put all" in text


def test_a_file_cant_change_the_import_path(folder):
    (folder / "net.py").write_text("import sys\nsys.path.insert(0, '/nowhere')\n" + NET)
    before = list(sys.path)
    open_network(spec(folder), 3)
    assert sys.path == before
    (folder / "net.py").write_text("import sys\nsys.path.insert(0, '/nowhere')\n1 / 0\n" + NET)
    refusal(spec(folder))
    assert sys.path == before


def test_two_files_do_not_meet_and_dataclasses_work(folder):
    source = """\
from __future__ import annotations
from dataclasses import dataclass
from torch import nn

@dataclass
class Sizes:
    width: int = {width}

def build(classes, bands):
    return nn.Sequential(nn.Flatten(), nn.Linear(bands * 4, Sizes().width), nn.Linear({width}, 2))
"""
    for width in (4, 6):
        (folder / f"net{width}.py").write_text(source.format(width=width))
        save_weights(own(2, 3, width), folder / f"w{width}.safetensors")
    networks = [
        open_network(spec(folder, f"file:net{width}.py:build", f"w{width}.safetensors"), 3)
        for width in (4, 6)
    ]
    assert [network[1].out_features for network in networks] == [4, 6]
    users = [sys.modules[name] for name in sys.modules if name.startswith("occulta_user_network")]
    assert {str(folder / "net4.py"), str(folder / "net6.py")} <= {user.__file__ for user in users}


@pytest.mark.parametrize(
    ("architecture", "source", "message"),
    [
        ("file:net.py:build", "x = 1\n1 / 0\n", "net.py line 2 can't be imported: ZeroDivisionErr"),
        ("file:net.py:build", "def build(:\n", "net.py line 1 can't be imported: SyntaxError"),
        ("file:net.py:build", "raise SystemExit(3)\n", "can't be imported: SystemExit: 3"),
        ("file:net.py:build", "raise ValueError('a\\nb')\n", "ValueError: a b"),
        ("file:net.py:other", NET, "net.py has no function 'other'"),
        ("file:net.py:nn", NET, "net.py has no function 'nn'"),
        ("file:none.py:build", NET, "none.py does not exist; correct the path"),
        ("file:net.txt:build", NET, "is not file:PATH.py:FUNCTION"),
        ("file:net.py", NET, "is not file:PATH.py:FUNCTION"),
        (
            "file:net.py:build",
            "def build(classes, bands):\n    return 7\n",
            "build(classes=2, bands=3) in .* returned int, no torch module",
        ),
        (
            "file:net.py:build",
            "def build(classes):\n    return 7\n",
            "build(classes=2, bands=3) failed: TypeError: .*'bands'; it is called with classes, b",
        ),
        (
            "file:net.py:build",
            "def build(classes, bands):\n    raise KeyError('bad\\nnews')\n",
            "net.py line 2 build(classes=2, bands=3) failed: KeyError: ",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_one_line(folder, architecture, source, message):
    (folder / "net.py").write_text(source)
    text = refusal(spec(folder, architecture))
    for part in message.split(".*"):
        assert part in text


def test_building_leaves_the_random_state_alone(folder):
    for network in (spec(folder), small(folder)):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        open_network(network, 3)
        assert torch.equal(torch.rand(3), expected)


def test_the_identity_follows_weights_and_source(folder):
    def identity(section):
        return network_identity(section, open_network(section, 3))

    first = identity(spec(folder))
    assert identity(spec(folder)) == first
    (folder / "net.py").write_text(NET + "# another line\n")
    assert identity(spec(folder)) != first
    (folder / "net.py").write_text(NET)
    torch.manual_seed(1)
    save_weights(own(), folder / "other.safetensors")
    assert identity(spec(folder, weights="other.safetensors")) != first
    section = small(folder)
    network = open_network(section, 3)
    assert network_identity(section, network) == network_digest(network)


def state_of(folder):
    return safetensors.torch.load_file(folder / "small.safetensors")


def spoilt(folder, change):
    state = state_of(folder)
    change(state)
    safetensors.torch.save_file(state, folder / "spoilt.safetensors")
    return refusal(small(folder, weights="spoilt.safetensors"))


def test_missing_unexpected_and_misshapen_weights_are_named(folder):
    text = spoilt(folder, lambda state: state.pop("features.1.0.weight"))
    assert "1 missing: features.1.0.weight; name the architecture" in text
    text = spoilt(folder, lambda state: state.update({"fc.bias": torch.zeros(2)}))
    assert "1 unexpected: fc.bias" in text
    text = spoilt(folder, lambda state: state.update({"head.1.bias": torch.zeros(3)}))
    assert "1 of another shape: head.1.bias (3,) in the file, (64,) in the network" in text
    assert "spoilt.safetensors" in text


def test_weights_of_other_classes_bands_or_architecture_are_explained(folder):
    text = refusal(small(folder, classes=("a", "b", "c")))
    assert "the head has 2 outputs in the file, 3 classes in the job" in text
    text = refusal(small(folder), bands=5)
    assert "features.0.0.weight (16, 3, 3, 3) in the file, (16, 5, 3, 3) in the network" in text
    text = refusal(spec(folder, "torchvision:resnet18", "small.safetensors"))
    assert "name the architecture, bands and options" in text


def test_names_left_by_data_parallel_are_explained(folder):
    def prefix(state):
        renamed = {f"module.{name}": part for name, part in state.items()}
        state.clear()
        state.update(renamed)

    assert "left by DataParallel: save network.module instead" in spoilt(folder, prefix)


def test_an_unknown_architecture_is_refused_with_the_nearest(folder):
    text = refusal(spec(folder, "torchvision:resnet19", "small.safetensors"))
    assert "did you mean 'torchvision:resnet1" in text
    assert "options {'widht': 3} are refused" in refusal(small(folder, options={"widht": 3}))


def test_another_hash_a_missing_and_a_truncated_file_are_refused(folder):
    assert "expected " + "0" * 64 in refusal(small(folder, sha256="0" * 64))
    assert "none.safetensors: No such file" in refusal(small(folder, weights="none.safetensors"))
    content = (folder / "small.safetensors").read_bytes()
    for length in (0, 5, len(content) // 2, len(content) - 1):
        (folder / "cut.safetensors").write_bytes(content[:length])
        text = refusal(small(folder, weights="cut.safetensors"))
        assert "cut.safetensors: no valid safetensors file" in text
    torch.save(state_of(folder), folder / "cut.pt")
    content = (folder / "cut.pt").read_bytes()
    (folder / "cut.pt").write_bytes(content[: len(content) // 2])
    assert "cut.pt: holds more than tensors or is damaged" in refusal(
        small(folder, weights="cut.pt")
    )


class Finetuned(lightning.LightningModule):
    """What fine-tuning a Zoobot saves: an encoder, a head, and how it was trained."""

    def __init__(self, name, bands, classes, learning_rate=1e-4):
        super().__init__()
        self.save_hyperparameters()
        self.encoder = timm.create_model(name, num_classes=0, in_chans=bands)
        self.head = nn.Sequential(
            OrderedDict(
                dropout=nn.Dropout(0.5), linear=nn.Linear(self.encoder.num_features, classes)
            )
        )

    def configure_optimizers(self):
        return torch.optim.AdamW(self.head.parameters(), lr=self.hparams.learning_rate)


@pytest.fixture
def checkpoint(folder):
    torch.manual_seed(4)
    module = Finetuned("resnet10t", 4, 2)
    options = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary"), False)
    trainer = lightning.Trainer(accelerator="cpu", **options)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(folder / "zoobot.ckpt")
    return module.eval()


def test_a_finetuned_zoobot_is_opened_from_its_checkpoint(folder, checkpoint):
    content = (folder / "zoobot.ckpt").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    network = open_network(spec(folder, "zoobot:resnet10t", "zoobot.ckpt", sha256=digest), 4)
    images = torch.randn(2, 4, 64, 64)
    with torch.inference_mode():
        expected = checkpoint.head(checkpoint.encoder(images))
        torch.testing.assert_close(network(images), expected, rtol=0, atol=0)


def test_a_zoobot_that_does_not_fit_its_checkpoint_is_explained(folder, checkpoint):
    text = refusal(spec(folder, "zoobot:resnet10t", "zoobot.ckpt", classes=("a", "b", "c")), 4)
    assert "the head has 2 outputs in the file, 3 classes in the job" in text
    text = refusal(spec(folder, "zoobot:resnet10t", "zoobot.ckpt"), 3)
    assert "encoder.conv1.0.weight (24, 4, 3, 3) in the file, (24, 3, 3, 3) in the network" in text
    text = refusal(spec(folder, "timm:resnet10t", "zoobot.ckpt"), 4)
    assert "the names begin with 'encoder.' and 'head.': is it a zoobot:NAME?" in text
    text = refusal(spec(folder, "zoobot:resnet10t", "zoobot.ckpt", sha256="0" * 64), 4)
    assert "get the right file, or correct the hash" in text


@pytest.fixture
def zoobot_state(checkpoint):
    return {name: part.clone() for name, part in checkpoint.state_dict().items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("head.linear.bias"), "1 missing: head.linear.bias; name the enc"),
        (
            lambda state: state.update({"encoder.extra": torch.zeros(1)}),
            "1 unexpected: encoder.extra; name the encoder, bands and options",
        ),
        (
            lambda state: state.update({"head.1.0.weight": state.pop("head.linear.weight")}),
            "1 missing: head.linear.weight; 1 unexpected: head.1.0.weight; the weights have "
            "Zoobot's dirichlet head: set network.options.head to dirichlet",
        ),
    ],
)
def test_misfitting_weights_of_a_zoobot_are_named(folder, zoobot_state, change, message):
    change(zoobot_state)
    torch.save({"state_dict": zoobot_state, "hyper_parameters": {"a": 1}}, folder / "bad.ckpt")
    assert message in refusal(spec(folder, "zoobot:resnet10t", "bad.ckpt"), 4)


def test_hyper_parameters_that_are_code_are_refused(folder, zoobot_state, monkeypatch):
    monkeypatch.chdir(folder)
    torch.save({"state_dict": zoobot_state, "hyper_parameters": Evil()}, folder / "evil.ckpt")
    text = refusal(spec(folder, "zoobot:resnet10t", "evil.ckpt"), 4)
    assert "evil.ckpt: holds more than tensors" in text
    assert not (folder / "ran").exists()


TREE = {"head": "dirichlet", "answers": 7, "first": 2}


@pytest.fixture
def tree(folder):
    """Save what training a Zoobot on a tree of questions does: concentrations of 7 answers."""
    torch.manual_seed(4)
    encoder = timm.create_model("resnet10t", num_classes=0)
    top = nn.Sequential(nn.Linear(encoder.num_features, 7), nn.Sigmoid())
    module = nn.ModuleDict({"encoder": encoder, "head": nn.Sequential(nn.Dropout(0.2), top)})
    content = {"state_dict": module.state_dict(), "hyper_parameters": {"question_index_groups": 3}}
    torch.save(content, folder / "tree.ckpt")
    return module.eval()


def test_votes_of_a_question_of_a_tree_are_its_share_of_the_concentrations(folder, tree):
    section = spec(folder, "zoobot:resnet10t", "tree.ckpt", options=TREE)
    images = torch.randn(3, 3, 64, 64)
    network = open_network(section, 3)
    with torch.inference_mode():
        concentrations = 100 * tree["head"](tree["encoder"](images))[:, 2:4] + 1
        torch.testing.assert_close(network(images), concentrations.log(), rtol=0, atol=1e-5)
    method = MCDropout(50, outputs="vote_fractions", volunteers=40)
    found = explain(network, images, method, micro_batch=4)
    assert (found["vote_fraction_std"] > 0).all()
    np.testing.assert_allclose(found["vote_fraction_mean"].sum(axis=1), 1, rtol=1e-6)
    expected = (concentrations / concentrations.sum(dim=1, keepdim=True)).numpy()
    error = np.abs(found["vote_fraction_mean"] - expected)
    assert (error < found["vote_fraction_std"] + 0.01).all()


def test_a_tree_that_does_not_fit_is_explained(folder, tree):
    text = refusal(spec(folder, "zoobot:resnet10t", "tree.ckpt"))
    assert "the weights have Zoobot's dirichlet head: set network.options.head to dir" in text
    text = refusal(spec(folder, "zoobot:resnet10t", "tree.ckpt", options={"head": "dirichlet"}))
    assert "the tree has 7 answers in the file, 2 in the network: set network.options.ans" in text
    text = refusal(spec(folder, "timm:resnet10t", "tree.ckpt"))
    assert "is it a zoobot:NAME, with options {head: dirichlet}?" in text


BANDS = (1, 2, 3, 5, 10)
FIRST = {
    "torchvision:mobilenet_v2": "features.0.0",
    "timm:resnet10t": "conv1.0",
    "zoobot:convnext_atto": "encoder.stem.0",
    "occulta:small_cnn": "features.0.0",
}


@pytest.mark.parametrize("architecture", FIRST)
def test_networks_of_every_family_take_one_band_to_ten(folder, architecture):
    images = {bands: torch.randn(2, bands, 64, 64) for bands in BANDS}
    for bands in BANDS:
        made = build(architecture, 2, bands).eval()
        save_weights(made, folder / "w.safetensors")
        network = open_network(spec(folder, architecture, "w.safetensors"), bands)
        with torch.inference_mode():
            assert torch.equal(network(images[bands]), made(images[bands]))
        first = network.get_submodule(FIRST[architecture])
        assert first.in_channels == bands
    other = refusal(spec(folder, architecture, "w.safetensors"), 3)
    shape = tuple(first.weight.shape)
    assert f"1 of another shape: {FIRST[architecture]}.weight {shape} in the file" in other
    assert f"{(shape[0], 3, *shape[2:])} in the network; name the" in other


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("name", ["evil.pt", "evil.pth", "evil.ckpt"])
def test_a_pickle_with_code_is_refused_and_not_run(folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    torch.save({**state_of(folder), "extra": Evil()}, folder / name)
    assert f"{name}: holds more than tensors" in refusal(small(folder, weights=name, trust="code"))
    (folder / name).write_bytes(pickle.dumps(Evil()))
    assert f"{name}: holds more than tensors" in refusal(small(folder, weights=name))
    assert not (folder / "ran").exists()


SIMULATION = """
kind: simulation
name: survey
preset: A
objects: 2
output: survey
"""
ATTRIBUTION = """
kind: attribution
name: why
survey: {format: simulated, path: survey}
network:
  architecture: "file:net.py:build"
  weights: weights.safetensors
  classes: [a, b]
  trust: code
methods:
  - {method: gradient_x_input}
output: why
"""
FORWARD = """\
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(__import__("torch").ones(2))

    def forward(self, x):
        return FORWARD

def build(classes, bands):
    return Net()
"""


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    (folder / "simulation.yaml").write_text(SIMULATION)
    (folder / "job.yaml").write_text(ATTRIBUTION)
    execute(plan_job(load_job(folder / "simulation.yaml")), SerialPool)
    safetensors.torch.save_file({"scale": torch.ones(2)}, folder / "weights.safetensors")
    return folder


def plan_with(survey, forward):
    (survey / "net.py").write_text(FORWARD.replace("FORWARD", forward))
    return plan_job(load_job(survey / "job.yaml"))


def test_a_network_that_fits_is_planned(survey):
    planned = plan_with(survey, "x.mean((2, 3))[:, :2] * self.scale")
    assert planned.units.objects == 2


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        ("x.mean((2, 3)) * self.scale.sum()", r"output has shape \(1, 3\) .* expected \(1, 2\)"),
        ("x.mean((2, 3))[:, :1] * self.scale[0]", r"output has shape \(1, 1\)"),
        ("x.mean() * self.scale", r"output has shape \(2,\)"),
        ("x.reshape(len(x), 3, 50, 50)", r"not accept images of shape \(3, 64, 64\): .*size"),
    ],
)
def test_other_outputs_and_inputs_are_refused_by_the_plan(survey, forward, message):
    with pytest.raises(RefusedError, match=message) as caught:
        plan_with(survey, forward)
    assert "\n" not in str(caught.value)
