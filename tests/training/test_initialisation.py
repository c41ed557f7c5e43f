"""First weights have the variance that theory asks for, and signals do what theory says."""

import math

import pytest
import torch
from torch import nn

from training.initialisation import TOO_LARGE, TOO_SMALL, initialise

VARIANCES = {
    "lecun": lambda n, m: 1 / n,
    "glorot": lambda n, m: 2 / (n + m),
    "he": lambda n, m: 2 / n,
    "too_small": lambda n, m: TOO_SMALL**2 * 2 / n,
    "too_large": lambda n, m: TOO_LARGE**2 * 2 / n,
}


@pytest.mark.parametrize("scheme", VARIANCES)
def test_weights_have_their_variance(scheme):
    layers = nn.Sequential(nn.Conv2d(32, 64, 3), nn.Conv2d(32, 64, 3, groups=4), nn.Linear(400, 90))
    initialise(layers, scheme, seed=1)
    fans = [(32 * 9, 64 * 9), (8 * 9, 16 * 9), (400, 90)]
    for layer, (n, m) in zip(layers, fans, strict=True):
        found = float(layer.weight.detach().var())
        # The standard error of a variance of k normal numbers is sqrt(2 / k) of it.
        error = math.sqrt(2 / layer.weight.numel())
        assert found == pytest.approx(VARIANCES[scheme](n, m), rel=5 * error)
        assert abs(float(layer.weight.detach().mean())) < 5 * math.sqrt(
            found / layer.weight.numel()
        )
        assert not layer.bias.any()


def test_orthogonal_weights_keep_lengths():
    layer = nn.Linear(50, 50)
    initialise(layer, "orthogonal", seed=1)
    x = torch.randn(20, 50)
    torch.testing.assert_close(layer(x).norm(dim=1), x.norm(dim=1))
    tall = nn.Conv2d(2, 40, 3)
    initialise(tall, "orthogonal", seed=1)
    flat = tall.weight.detach().flatten(1)
    torch.testing.assert_close(flat.T @ flat, torch.eye(18), atol=1e-5, rtol=0.0)


@pytest.mark.parametrize(
    ("scheme", "activation", "factor"),
    [
        ("lecun", None, 1.0),
        ("he", None, 2.0),
        ("he", nn.ReLU, 1.0),
        ("lecun", nn.ReLU, 0.5),
        ("too_small", nn.ReLU, TOO_SMALL**2),
        ("too_large", nn.ReLU, TOO_LARGE**2),
    ],
)
def test_signals_grow_by_the_factor_of_theory_in_every_layer(scheme, activation, factor):
    """With a ReLU, the second moment of a layer's output is half its variance: He et al. 2015."""
    depth, width = 20, 1000
    x = torch.randn(16, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seconds = []
    for number in range(depth):
        layer = nn.Linear(width, width).double()
        initialise(layer, scheme, seed=number)
        x = layer(x).detach()
        seconds.append(float((x**2).mean()))
        if activation is not None:
            x = activation()(x)
    growth = (seconds[-1] / seconds[0]) ** (1 / (depth - 1))
    assert growth == pytest.approx(factor, rel=0.03)


def test_norms_are_neutral_and_seeds_decide():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    nn.init.constant_(network[1].weight, 5.0)
    initialise(network, "he", seed=3)
    assert torch.equal(network[1].weight, torch.ones(4))
    first = network[0].weight.clone()
    torch.manual_seed(99)
    initialise(network, "he", seed=3)
    assert torch.equal(network[0].weight, first)
    initialise(network, "he", seed=4)
    assert not torch.equal(network[0].weight, first)


def test_default_changes_nothing_and_others_are_refused():
    layer = nn.Linear(3, 3)
    before = layer.weight.clone()
    initialise(layer, "default")
    assert torch.equal(layer.weight, before)
    with pytest.raises(ValueError, match="initialisation = 'xavier' is invalid; use default, le"):
        initialise(layer, "xavier")
