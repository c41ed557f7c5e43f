from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from training.augmentation import NO_AUGMENTATION
from training.blocks import blocks_of, replace_head
from training.fit import FitSettings, fit, predict_logits
from training.networks import build
from training.transfer import Transfer, features_of, freedom_of, transfer

SETTINGS = FitSettings(epochs=3, batch_size=16, seed=5, augmentation=NO_AUGMENTATION)


def small(seed=0):
    torch.manual_seed(seed)
    return build("occulta:small_cnn", 2, 1, {"width": 4})


@pytest.fixture
def parts(easy_examples):
    return easy_examples(80, seed=1), easy_examples(40, seed=2)


def test_blocks_of_our_own_network():
    assert blocks_of(small()) == (
        ("features.0",),
        ("features.1",),
        ("features.2",),
        ("features.3", "pool", "head.0"),
        ("head.1", "head.2", "head.3"),
        ("head.4",),
    )


@pytest.mark.parametrize(
    ("architecture", "count", "first", "last"),
    [
        ("torchvision:resnet18", 10, ("conv1", "bn1", "relu", "maxpool"), ("fc",)),
        ("torchvision:squeezenet1_0", 10, None, None),
        ("torchvision:mobilenet_v3_small", 15, ("features.0",), ("classifier.3",)),
        ("timm:resnet10t", 8, None, ("fc",)),
        ("timm:convnext_atto", 6, None, ("head",)),
        ("zoobot:resnet10t", 8, None, ("head",)),
    ],
)
def test_blocks_of_other_networks_hold_every_parameter_once(architecture, count, first, last):
    network = build(architecture, 3, 2)
    blocks = blocks_of(network)
    names = [name for block in blocks for name in block]
    for parameter, _ in network.named_parameters():
        assert sum(parameter.startswith(f"{name}.") for name in names) == 1, parameter
    assert len(blocks) == count, blocks
    assert first is None or blocks[0] == first
    assert last is None or blocks[-1] == last


def test_a_network_without_weights_has_no_blocks():
    with pytest.raises(ValueError, match="no layers with weights"):
        blocks_of(nn.Sequential(nn.ReLU()))


def test_a_new_head_keeps_the_rest():
    network = small()
    before = network.state_dict()
    replace_head(network, 5)
    after = network.state_dict()
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 5)
    assert all(torch.equal(after[n], before[n]) for n in before if not n.startswith("head.4."))
    with pytest.raises(ValueError, match="no linear layer; build it for 5 classes"):
        replace_head(nn.Sequential(nn.Conv2d(1, 2, 1)), 5)


def test_frozen_features_train_the_head_as_the_whole_network_would(parts, tmp_path):
    """With everything before the last layer at rest; the weights differ by rounding alone."""
    cached, whole = small(), small()
    done = transfer(cached, *parts, SETTINGS, Transfer("frozen"), tmp_path / "cached")
    result = fit(
        whole, *parts, SETTINGS, tmp_path / "whole",
        freedom=freedom_of(whole, Transfer("frozen")),
    )  # fmt: skip
    before = small().state_dict()
    assert not torch.equal(cached.state_dict()["head.4.weight"], before["head.4.weight"])
    for name, part in cached.state_dict().items():
        torch.testing.assert_close(part, whole.state_dict()[name], atol=1e-4, rtol=0.0, msg=name)
        assert name.startswith("head.4.") or torch.equal(part, before[name]), name
    for ours, theirs in zip(done.fit.history, result.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-3)
        assert ours.validation_loss == pytest.approx(theirs.validation_loss, rel=1e-3)
    assert (done.trained, done.fit.best_epoch) == (64 * 2 + 2, result.best_epoch)
    assert not cached.training


def test_a_stopped_transfer_goes_on_to_the_same_bits(parts, tmp_path):
    class StopHereError(Exception):
        pass

    def stop(record):
        if record.epoch == 2:
            raise StopHereError

    for strategy in ("frozen", "last_blocks"):
        whole, stopped, choice = small(), small(), Transfer(strategy)
        transfer(whole, *parts, SETTINGS, choice, tmp_path / f"{strategy}-whole")
        folder = tmp_path / strategy
        with pytest.raises(StopHereError):
            transfer(stopped, *parts, SETTINGS, choice, folder, stop)
        again = small()
        transfer(again, *parts, SETTINGS, choice, folder)
        for name, part in again.state_dict().items():
            assert torch.equal(part, whole.state_dict()[name]), (strategy, name)
    with pytest.raises(ValueError, match="training set, validation set changed"):
        transfer(small(seed=1), *parts, SETTINGS, Transfer("frozen"), tmp_path / "frozen")


def test_features_are_what_the_last_layer_sees(parts):
    network = small()
    features = features_of(network, parts[0])
    assert features.images.shape == (80, 64, 1, 1)
    weight, bias = (part.detach().numpy() for part in network.head[4].parameters())
    logits = features.images[:, :, 0, 0] @ weight.T + bias
    np.testing.assert_allclose(logits, predict_logits(network, parts[0]), atol=1e-5)
    assert network.training


def test_features_are_known_by_images_and_weights_but_not_by_the_last_layer_s(parts):
    digest = features_of(small(), parts[0]).digest()
    same, other = small(), small(seed=1)
    nn.init.zeros_(same.head[4].weight)
    assert features_of(same, parts[0]).digest() == digest
    assert features_of(other, parts[0]).digest() != digest
    assert features_of(small(), parts[1]).digest() != digest


def test_a_network_that_goes_on_after_its_last_layer_is_not_cached(parts, tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(1024, 2), nn.Tanh())
    with pytest.raises(ValueError, match="goes on after it; use last_blocks with blocks = 0"):
        transfer(network, *parts, SETTINGS, Transfer("frozen"), tmp_path)
    done = transfer(network, *parts, SETTINGS, Transfer("last_blocks", blocks=0), tmp_path)
    assert done.trained == done.parameters


def test_the_last_blocks_train_and_the_others_rest(parts, tmp_path):
    network = small()
    before = {name: part.clone() for name, part in network.state_dict().items()}
    done = transfer(network, *parts, SETTINGS, Transfer("last_blocks", blocks=2), tmp_path)
    after = network.state_dict()
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {n for n in before if n.startswith(("features.0", "features.1", "features.2"))}
    assert 0 < done.trained < done.parameters


def test_early_blocks_learn_more_slowly():
    rates = freedom_of(small(), Transfer("all", rate_decay=0.5)).rates
    assert rates["head.4.bias"] == 1.0
    assert rates["head.1.weight"] == 0.5
    assert rates["features.3.0.weight"] == 0.25
    assert rates["features.0.1.bias"] == 0.5**5
    assert set(freedom_of(small(), Transfer("all", rate_decay=1.0)).rates.values()) == {1.0}


def test_rates_move_blocks_in_proportion(parts, tmp_path):
    """One step of plain SGD: each block moves by its rate times its gradient."""
    settings = replace(
        SETTINGS, epochs=1, batch_size=80, optimizer="sgd", momentum=0.0, weight_decay=0.0,
        schedule="constant", learning_rate=0.1,
    )  # fmt: skip
    moved = []
    for decay in (1.0, 0.5):
        torch.manual_seed(0)
        network = build("occulta:small_cnn", 2, 1, {"width": 4, "dropout": 0.0})
        before = {name: part.detach().clone() for name, part in network.named_parameters()}
        transfer(
            network, *parts, settings, Transfer("all", rate_decay=decay), tmp_path / str(decay)
        )
        moved.append({n: part.detach() - before[n] for n, part in network.named_parameters()})
    for name, factor in (("head.4.weight", 1.0), ("head.1.weight", 0.5)):
        torch.testing.assert_close(moved[1][name], factor * moved[0][name], rtol=1e-3, atol=1e-7)


def test_from_scratch_is_a_fit(parts, tmp_path):
    one, other = small(), small()
    transfer(one, *parts, SETTINGS, Transfer("scratch"), tmp_path / "one")
    fit(other, *parts, SETTINGS, tmp_path / "other")
    for name, part in one.state_dict().items():
        assert torch.equal(part, other.state_dict()[name])


@pytest.mark.parametrize(
    "change", [{"strategy": "half"}, {"blocks": -1}, {"rate_decay": 0.0}, {"rate_decay": 1.5}]
)
def test_impossible_choices_are_refused(change):
    with pytest.raises(ValueError, match=f"transfer: {next(iter(change))} = "):
        Transfer(**change)


def test_more_blocks_than_there_are_are_refused():
    with pytest.raises(ValueError, match="the network has 5 before its last layer's"):
        freedom_of(small(), Transfer("last_blocks", blocks=6))
