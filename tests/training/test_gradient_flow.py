"""What is recorded of signals and gradients: against autograd, closed forms and theory."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from training.gradient_flow import linear_product, record_flow, trace
from training.initialisation import initialise
from training.networks import build


@pytest.mark.parametrize("factors", [(0.5, 2.0), (0.9, 1.1), (-1.0, 1.0)])
def test_a_product_of_diagonal_layers_is_what_autograd_says(factors):
    outputs, gradients = linear_product(factors, 12)
    for depth in (1, 2, 7, 12):
        layers = [
            torch.tensor(factors, dtype=torch.float64, requires_grad=True) for _ in range(depth)
        ]
        x = torch.ones(len(factors), dtype=torch.float64)
        for layer in layers:
            x = torch.diag(layer) @ x
        np.testing.assert_allclose(x.detach(), outputs[depth - 1], rtol=1e-14)
        x.sum().backward()
        for layer in layers:
            np.testing.assert_allclose(layer.grad, gradients[depth - 1], rtol=1e-14)


def test_it_records_what_autograd_finds():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 2))
    images, labels = torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 1, 0, 1])
    flow = record_flow(network, images, labels)
    assert flow.layers == ("0", "3")
    assert all(part.grad is None for part in network.parameters())
    hidden = network[0](images)
    logits = network[3](network[1](hidden).flatten(1))
    loss = functional.cross_entropy(logits, labels)
    of_hidden, of_logits, *weights = torch.autograd.grad(
        loss, [hidden, logits, network[0].weight, network[3].weight]
    )
    np.testing.assert_allclose(
        flow.signal,
        [hidden.square().mean().sqrt().item(), logits.square().mean().sqrt().item()],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        flow.gradient,
        [5 * g.square().mean().sqrt().item() for g in (of_hidden, of_logits)],
        rtol=1e-5,
    )
    np.testing.assert_allclose(flow.weight_gradient, [w.norm().item() for w in weights], rtol=1e-5)


def test_dead_channels_are_counted():
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    nn.init.zeros_(network[0].weight)
    network[0].bias.data = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    flow = record_flow(network, torch.randn(3, 1, 2, 2), torch.tensor([0, 1, 0]))
    assert flow.dead[0] == 0.5


def some_images(count=16):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 1, 16, 16, generator=generator)
    labels = torch.arange(count) % 2
    images[labels == 1, :, 4:12, 4:12] += 1.0
    return images, labels


def flow_of(initialisation, **options):
    torch.manual_seed(1)
    base = {"depth": 20, "stages": 1, "width": 32, "normalisation": "none", "dropout": 0.0}
    network = build("occulta:cnn", 2, 1, {**base, "initialisation": initialisation, **options})
    return record_flow(network, *some_images())


def test_gradients_vanish_explode_and_are_cured():
    def across(flow):
        """First layer's gradient over the last convolution's."""
        return flow.gradient[0] / flow.gradient[-2]

    assert across(flow_of("too_small")) < 1e-12
    assert across(flow_of("too_large")) > 1e4
    assert 1e-2 < across(flow_of("he")) < 1e2
    assert across(flow_of("lecun")) < 0.05  # a factor sqrt(1/2) in each layer
    cured = flow_of("too_small", normalisation="batch")
    assert across(cured) > 1e-3
    assert across(flow_of("too_small", residual=True)) > 1e-3


def test_a_trace_is_reproducible_and_learns():
    def run():
        torch.manual_seed(2)
        network = build("occulta:cnn", 2, 1, {"depth": 4, "stages": 2, "width": 8, "dropout": 0.0})
        return trace(network, *some_images(), steps=15, learning_rate=0.1, records=(0, 5, 15))

    first, second = run(), run()
    assert first.steps == (0, 5, 15)
    assert first.flow.gradient.shape == (3, 5)
    np.testing.assert_array_equal(first.losses, second.losses)
    np.testing.assert_array_equal(first.flow.signal, second.flow.signal)
    assert first.losses[-1] < 0.5 * first.losses[0]
    assert len(first.losses) == len(first.accuracies) == 16


def test_a_network_without_layers_is_refused():
    images = torch.rand(2, 2, requires_grad=True)
    with pytest.raises(ValueError, match="no convolution or linear layer"):
        record_flow(nn.Softmax(1), images, torch.tensor([0, 1]))


def test_weights_are_drawn_by_the_scheme():
    torch.manual_seed(3)
    network = build("occulta:cnn", 2, 1, {"initialisation": "orthogonal", "stages": 2})
    other = build("occulta:cnn", 2, 1, {"stages": 2})
    initialise(other, "orthogonal", seed=1)
    first = network.stages[1][0].body[0].weight.detach().flatten(1)
    second = other.stages[1][0].body[0].weight.detach().flatten(1)
    for weight in (first, second):
        gram = weight @ weight.T
        torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-5, rtol=0.0)
