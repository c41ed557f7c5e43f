from __future__ import annotations

import hashlib
import os
import pickle

import pytest
import torch
from torch import nn

from training.checkpoints import (
    NetworkCard,
    load_card,
    load_weights,
    network_digest,
    save_card,
    save_weights,
)
from training.networks import build


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build("occulta:small_cnn", 3)


@pytest.fixture
def other():
    torch.manual_seed(1)
    return build("occulta:small_cnn", 3)


def test_weights_come_back_bit_for_bit(network, other, tmp_path):
    path = tmp_path / "deep" / "net.safetensors"
    digest = save_weights(network, path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert network_digest(other) != network_digest(network)
    assert load_weights(other, path, digest) == digest
    assert network_digest(other) == network_digest(network)
    assert os.listdir(path.parent) == ["net.safetensors"]


def test_the_same_weights_make_the_same_file(network, tmp_path):
    first = save_weights(network, tmp_path / "a.safetensors")
    assert save_weights(network, tmp_path / "b.safetensors") == first


def test_a_failed_write_leaves_the_old_file(network, other, tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    save_weights(network, path)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(other, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["net.safetensors"]


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
@pytest.mark.parametrize("name", ["net.pt", "net.pth"])
def test_torch_files_are_read(network, other, tmp_path, name, wrap):
    torch.save(wrap(network.state_dict()), tmp_path / name)
    load_weights(other, tmp_path / name)
    assert network_digest(other) == network_digest(network)


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("evil",))


def test_a_torch_file_never_runs_code(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.pt"
    torch.save({"weight": Evil()}, path)
    with pytest.raises(ValueError, match="holds more than tensors") as caught:
        load_weights(network, path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil").exists()
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="holds more than tensors"):
        load_weights(network, path)
    assert not (tmp_path / "evil").exists()


def test_tied_and_sliced_weights_are_saved(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(4, 4)
            self.two = self.one
            self.register_buffer("part", torch.arange(16.0).reshape(4, 4).T)

    save_weights(Tied(), tmp_path / "t.safetensors")
    load_weights(Tied(), tmp_path / "t.safetensors")


def refusal(network, path, sha256=None):
    before = network_digest(network)
    with pytest.raises(ValueError, match=path.name) as caught:
        load_weights(network, path, sha256)
    assert "\n" not in str(caught.value)
    assert network_digest(network) == before  # all of it or none
    return str(caught.value)


def test_another_hash_is_refused(network, tmp_path):
    path = tmp_path / "net.safetensors"
    digest = save_weights(network, path)
    assert f"sha256 is {digest}, expected {'0' * 64}" in refusal(network, path, "0" * 64)


def test_another_number_of_classes_is_named(network, tmp_path):
    path = tmp_path / "net.safetensors"
    save_weights(build("occulta:small_cnn", 10), path)
    text = refusal(network, path)
    assert "head.4.weight (10, 64) in the file, (3, 64) in the network" in text
    assert "the head has 10 outputs in the file, 3 classes in the job" in text


def test_another_architecture_is_named(network, tmp_path):
    path = tmp_path / "net.safetensors"
    save_weights(build("torchvision:resnet18", 3), path)
    text = refusal(network, path)
    assert "missing: features.0.0.weight" in text
    assert "unexpected: " in text
    assert "more" in text


def test_data_parallel_names_are_explained(network, tmp_path):
    path = tmp_path / "net.pt"
    torch.save({f"module.{k}": v for k, v in network.state_dict().items()}, path)
    assert "save network.module" in refusal(network, path)


def test_damaged_missing_and_strange_files_are_refused(network, tmp_path):
    path = tmp_path / "net.safetensors"
    save_weights(network, path)
    path.write_bytes(path.read_bytes()[:500])
    assert "no valid safetensors file" in refusal(network, path)
    assert "No such file" in refusal(network, tmp_path / "none.safetensors")
    (tmp_path / "cut.pt").write_bytes(b"")
    assert "damaged" in refusal(network, tmp_path / "cut.pt")
    (tmp_path / "net.h5").write_bytes(b"x")
    assert "unknown ending '.h5'" in refusal(network, tmp_path / "net.h5")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "no table of tensors" in refusal(network, tmp_path / "list.pt")


def test_weights_that_are_not_finite_are_refused(network, other, tmp_path):
    path = tmp_path / "net.safetensors"
    with torch.no_grad():
        network.head[1].weight[0, 0] = float("nan")
    save_weights(network, path)
    assert "head.1.weight holds NaN" in refusal(other, path)


def test_digest_sees_values_names_and_types():
    one = nn.Linear(2, 2)
    digest = network_digest(one)
    assert network_digest(nn.Sequential(one)) != digest
    assert network_digest(one.double()) != digest


def test_card_comes_back(tmp_path):
    card = NetworkCard(
        architecture="occulta:small_cnn",
        classes=("smooth", "spiral"),
        bands=("g", "r"),
        preprocess={"stretch": "asinh", "scale": 0.1},
        sha256="ab",
        metrics={"accuracy": 0.9},
        survey="cd",
    )
    save_card(card, tmp_path / "net.json")
    assert load_card(tmp_path / "net.json") == card


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"architecture": "x"}', b"\xff"])
def test_a_bad_card_is_refused(tmp_path, content):
    (tmp_path / "net.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"net\.json: .*; it must be the JSON"):
        load_card(tmp_path / "net.json")
