"""The part of a network before its dropout runs once, and samples are what they were."""

import numpy as np
import pytest
import torch
from torch import nn

from attribution import MCDropout, explain
from attribution.batch import reproducible
from attribution.dropout import DropoutSamples
from attribution.dropout_masks import dropout_sites
from attribution.dropout_prefix import Split, split
from attribution.explain import Needs, make_batch

IMAGES = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(0))


class _Headed(nn.Module):
    """A body, a head, and what is done to the head's output."""

    def __init__(self, head, after=lambda logits: logits):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(inplace=True))
        self.head = head
        self.after = after

    def forward(self, images):
        return self.after(self.head(self.body(images).flatten(1)))


class _Written(nn.Module):
    """Layers that are called one by one, as most people write them."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(80, 7), nn.Linear(7, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, features):
        return self.two(self.dropout(torch.relu(self.one(features))))


def head(*first):
    return nn.Sequential(*first, nn.Dropout(0.5), nn.Linear(80, 3))


def shared_dropout():
    dropout = nn.Dropout(0.5)
    return nn.Sequential(dropout, nn.Linear(80, 9), nn.ReLU(), dropout, nn.Linear(9, 3))


def nested():
    return nn.Sequential(nn.Linear(80, 9), nn.Sequential(nn.ReLU(), head()[0]), nn.Linear(9, 3))


def clamped(logits):
    return logits.clamp_(-50, 50)  # does nothing here, and might elsewhere


class _Block(nn.Module):
    """A block that overwrites its input and has dropout inside."""

    def __init__(self, dropout):
        super().__init__()
        self.dropout = dropout

    def forward(self, features):
        return self.dropout(features.relu_().sub_(0.1))


class _Twice(nn.Module):
    """Dropout on the way to a head that holds the same layer of dropout."""

    def __init__(self, first):
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Sequential(first(self.dropout), nn.Linear(72, 3))

    def forward(self, images):
        return self.head(self.dropout(images.flatten(1)))


NETWORKS = {
    "head": (lambda: _Headed(head()), ["Dropout", "Linear"]),
    "head that overwrites": (
        lambda: _Headed(
            nn.Sequential(nn.Dropout(0.5, inplace=True), nn.ReLU(inplace=True), head())
        ),
        ["Dropout", "ReLU", "Sequential"],
    ),
    "head with layers before": (
        lambda: _Headed(head(nn.Linear(80, 80), nn.Tanh())),
        ["Dropout", "Linear"],
    ),
    "one layer of dropout, twice": (lambda: _Headed(shared_dropout()), ["_Headed"]),
    "chains in chains": (lambda: _Headed(nested()), ["Dropout", "Linear"]),
    "head written out": (lambda: _Headed(_Written()), ["_Written"]),
    "chain": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Dropout2d(0.3), nn.Flatten(), nn.Linear(64, 3)
        ),
        ["Dropout2d", "Flatten", "Linear"],
    ),
    "wrapped": (lambda: nn.Sequential(_Headed(head())), ["Dropout", "Linear"]),
    "scores changed": (lambda: _Headed(head(), lambda x: 2 * x), ["_Headed"]),
    "scores overwritten": (lambda: _Headed(head(), lambda x: x.mul_(2)), ["_Headed"]),
    "scores clamped": (lambda: _Headed(head(), clamped), ["_Headed"]),
    "dropout outside too": (lambda: _Twice(lambda dropout: dropout), ["_Twice"]),
    "dropout outside a block too": (lambda: _Twice(_Block), ["_Twice"]),
    "block that overwrites": (
        lambda: _Headed(nn.Sequential(_Block(nn.Dropout(0.5)), nn.Linear(80, 3))),
        ["_Block", "Linear"],
    ),
}


def built(name):
    make, tail = NETWORKS[name]
    torch.manual_seed(0)
    return make().eval(), tail


@pytest.mark.parametrize("name", NETWORKS)
def test_the_tail_is_as_long_as_it_must_be(name):
    network, tail = built(name)
    with torch.no_grad():
        found = split(network, IMAGES, dropout_sites(network))
    assert [type(layer).__name__ for layer in found.tail] == tail


def totals(network, method, images, whole):
    """Merge the samples of a batch, which are whole passes or replays of the tail."""
    batch = make_batch(network, images, list("abcd"), 4, seed=3, needs=Needs())
    if whole:
        batch.once((DropoutSamples, method.inject), lambda: Split(images, (network,)))
    with reproducible():
        return method.partial(batch, np.zeros((4, 1), dtype=np.int64)).total(3)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("masks", ["per_object", "consistent"])
def test_samples_have_the_bits_of_whole_passes(masks, name):
    network, _ = built(name)
    method = MCDropout(12, masks)
    replayed, passed = (totals(network, method, IMAGES, whole) for whole in (False, True))
    for term, values in replayed.items():
        np.testing.assert_array_equal(values, passed[term])
    assert np.ptp(replayed["value"]) > 0


def test_samples_of_injected_dropout_have_the_bits_of_whole_passes():
    torch.manual_seed(0)
    network = _Headed(nn.Linear(80, 3)).eval()
    method = MCDropout(12, inject=0.5)
    replayed, passed = (totals(network, method, IMAGES, whole) for whole in (False, True))
    for term, values in replayed.items():
        np.testing.assert_array_equal(values, passed[term])


def rows_through(network, layer):
    rows = []
    layer.register_forward_hook(lambda _layer, _inputs, output: rows.append(len(output)))
    explain(network, IMAGES, MCDropout(20), micro_batch=4)
    return sum(rows)


def test_convolutions_run_once_per_object_and_dropout_once_per_sample():
    network, _ = built("head")
    # The images' own pass, the one that is kept, and one row to check the network.
    assert rows_through(network, network.body[0]) == 4 + 4 + 1
    # The tail is tried where it is found.
    assert rows_through(network, network.head[0]) == 4 + 2 * (4 + 1) + 4 * 20
    network, _ = built("scores changed")
    assert rows_through(network, network.body[0]) == 4 + 4 + 1 + 4 * 20


def test_features_keep_their_graph_also_where_the_tail_overwrites_them():
    plain, _ = built("head")
    images = IMAGES.clone().requires_grad_()
    (expected,) = torch.autograd.grad(plain(images.clone()).sum(), images)
    # The second network repeats a ReLU in place, which changes nothing; its weights are the same.
    for name in ("head", "head that overwrites"):
        network, _ = built(name)
        found = split(network, images, dropout_sites(network))
        (gradient,) = torch.autograd.grad(found.logits(found.features.clone()).sum(), images)
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, expected, rtol=0, atol=0)


def test_a_network_that_answers_nan_is_cut_as_any_other():
    network, tail = built("head")
    images = IMAGES.clone()
    images[2] = torch.nan
    with torch.no_grad():
        found = split(network, images, dropout_sites(network))
    assert [type(layer).__name__ for layer in found.tail] == tail


def test_no_hooks_stay_when_the_network_fails():
    network, _ = built("head")
    with pytest.raises(RuntimeError), torch.no_grad():
        split(network, IMAGES[:, :1], dropout_sites(network))
    for module in network.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
