"""Weights from elsewhere: all but the head, from files with another head or none."""

import pytest
import safetensors.torch
import timm
import torch

from training.checkpoints import load_pretrained, save_weights
from training.networks import build, head_of


def same(one, other, prefix=""):
    return all(torch.equal(one[name], other[name]) for name in one if name.startswith(prefix))


def test_zoobot_s_encoder_comes_without_a_head(tmp_path):
    encoder = timm.create_model("resnet10t", num_classes=0)
    safetensors.torch.save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    network = build("zoobot:resnet10t", 5)
    head = {name: part.clone() for name, part in network.head.state_dict().items()}
    load_pretrained(network, tmp_path / "encoder.safetensors")
    assert same(encoder.state_dict(), network.encoder.state_dict())
    assert same(head, network.head.state_dict())


def test_a_zoobot_with_other_answers_gives_its_encoder(tmp_path):
    other = build("zoobot:resnet10t", 34, 3, {"head": "dirichlet", "answers": 34})
    save_weights(other, tmp_path / "zoobot.safetensors")
    network = build("zoobot:resnet10t", 5)
    load_pretrained(network, tmp_path / "zoobot.safetensors")
    assert same(other.encoder.state_dict(), network.encoder.state_dict())


@pytest.mark.parametrize("architecture", ["torchvision:resnet18", "timm:resnet10t", "occulta:cnn"])
def test_a_classifier_of_other_classes_gives_all_but_its_head(architecture, tmp_path):
    other, network = build(architecture, 7), build(architecture, 3)
    save_weights(other, tmp_path / "other.safetensors")
    head = head_of(network)
    before = network.get_submodule(head).weight.clone()
    load_pretrained(network, tmp_path / "other.safetensors")
    assert torch.equal(network.get_submodule(head).weight, before)
    wanted, found = other.state_dict(), network.state_dict()
    assert all(
        torch.equal(wanted[name], found[name]) for name in wanted if not name.startswith(head)
    )


def test_weights_of_another_architecture_are_refused_and_change_nothing(tmp_path):
    save_weights(build("timm:resnet10t", 7), tmp_path / "other.safetensors")
    network = build("occulta:cnn", 3)
    before = {name: part.clone() for name, part in network.state_dict().items()}
    with pytest.raises(ValueError, match="don't fit the network"):
        load_pretrained(network, tmp_path / "other.safetensors")
    assert same(before, network.state_dict())
