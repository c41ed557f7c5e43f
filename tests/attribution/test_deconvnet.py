"""Deconvnet and guided backpropagation: by hand, for every kind of ReLU, against Captum."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from captum.attr import Deconvolution
from captum.attr import GuidedBackprop as CaptumGuided
from conformance.methods import MethodConformance, convolutional_network
from hypothesis import strategies as st
from torch import nn

from attribution import explain
from attribution.deconvnet import Deconvnet, GuidedBackprop, project
from attribution.layers import captured
from training.networks import build

PEERS = {Deconvnet: Deconvolution, GuidedBackprop: CaptumGuided}


class TestDeconvnet(MethodConformance):
    methods = st.just(Deconvnet())


class TestGuidedBackprop(MethodConformance):
    methods = st.just(GuidedBackprop())


class Chain(nn.Module):
    """f(x) = relu(-relu(x) + 1) and its negative, pixel by pixel."""

    def forward(self, x):
        value = F.relu(1 - F.relu(x)).sum(dim=(1, 2, 3))
        return torch.stack((value, -value), dim=1)


def test_a_chain_of_two_relus_by_hand():
    x = torch.tensor([[[[-1.0, 0.5, 2.0]]]])
    # Gradient of the first logit: 0, -1, 0. Backward from 1 (class 0): the second ReLU passes
    # relu(1) = 1, the sign turns it into -1, and the first one stops it.
    assert explain(Chain(), x, Deconvnet(), targets=0)["attribution"].ravel().tolist() == [0, 0, 0]
    # From -1 (class 1) nothing gets through the second.
    assert explain(Chain(), x, Deconvnet(), targets=1)["attribution"].ravel().tolist() == [0, 0, 0]


class Sign(nn.Module):
    """f(x) = relu(x) and relu(-x), summed."""

    def forward(self, x):
        return torch.stack((torch.relu(x).sum((1, 2, 3)), torch.relu(-x).sum((1, 2, 3))), dim=1)


def test_deconvnet_ignores_the_sign_of_the_input_and_guided_does_not():
    x = torch.tensor([[[[-1.0, 2.0]]]])
    for target, deconvnet, guided in ((0, [1, 1], [0, 1]), (1, [-1, -1], [-1, 0])):
        found = explain(Sign(), x, Deconvnet(), targets=target)["attribution"]
        assert found.ravel().tolist() == deconvnet
        found = explain(Sign(), x, GuidedBackprop(), targets=target)["attribution"]
        assert found.ravel().tolist() == guided


def test_one_convolution_and_pooling_by_hand():
    network = nn.Sequential(
        nn.Conv2d(1, 1, 2, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    )
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[[[1.0, -2.0], [3.0, 0.0]]]]))
    x = torch.tensor([[[[0.0, 1, 0], [2, 0, 0], [0, 5, 0]]]])
    # Convolution: [[0 - 2 + 6, 1 + 0], [2 + 0, 0 + 15]]; the switch is at (1, 1).
    found = explain(network, x, Deconvnet(), targets=0)["attribution"]
    assert found[0, 0].tolist() == [[0, 0, 0], [0, 1, -2], [0, 3, 0]]
    # Projection of the one activation, 15, not of the score's gradient.
    projected = project(network, x, "0", [0], [(1, 1)])
    assert projected[0, 0].tolist() == [[0, 0, 0], [0, 15, -30], [0, 45, 0]]


class Styles(nn.Module):
    """The same network with ReLUs as modules, functions, methods, in place, and reused."""

    def __init__(self, style):
        super().__init__()
        self.style = style
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)
        self.relus = nn.ModuleList([nn.ReLU(), nn.ReLU()])
        self.shared = nn.ReLU(inplace=True)

    def relu(self, x, number):
        if self.style == "in_place_unassigned":
            F.relu_(x)
            return x
        return {
            "modules": lambda: self.relus[number](x),
            "reused_in_place": lambda: self.shared(x),
            "function": lambda: F.relu(x),
            "torch": lambda: torch.relu(x),
            "method": lambda: x.relu(),
            "in_place_function": lambda: F.relu(x, inplace=True),
            "in_place_method": lambda: x.relu_(),
            "hardtanh": lambda: F.hardtanh(x, 0.0, 1e9),
        }[self.style]()

    def forward(self, x):
        x = self.relu(self.first(x), 0)
        x = self.relu(self.second(x) + x.mean(), 1)
        return self.head(F.max_pool2d(x, 4).flatten(1))


@pytest.mark.parametrize("method", [Deconvnet(), GuidedBackprop()])
@pytest.mark.parametrize(
    "style",
    [
        "reused_in_place",
        "function",
        "torch",
        "method",
        "in_place_function",
        "in_place_method",
        "in_place_unassigned",
        "hardtanh",
    ],
)
def test_every_kind_of_relu_equals_a_module_each(method, style):
    images = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    modules = Styles("modules")
    other = Styles(style)
    other.load_state_dict(modules.state_dict())
    expected = explain(modules, images, method, targets="all")["attribution"]
    found = explain(other, images, method, targets="all")["attribution"]
    np.testing.assert_array_equal(found, expected)
    assert np.abs(expected).max() > 0


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
@pytest.mark.parametrize("method", [Deconvnet(), GuidedBackprop()])
@pytest.mark.parametrize("architecture", ["small", "resnet18", "vgg16"])
def test_captum_agrees(method, architecture):
    torch.manual_seed(0)
    size = 9 if architecture == "small" else 64
    if architecture == "small":
        network = convolutional_network(3, 4)
    else:
        network = build(f"torchvision:{architecture}", 4)
    network.eval()
    images = torch.randn(2, 3, size, size)
    found = explain(network, images, method, targets=2, channels="keep", micro_batch=2)
    # Captum hooks modules, and does so wrongly where they work in place.
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    if architecture == "resnet18":
        _use_relus_once(network)
    peer = PEERS[type(method)](network).attribute(images.requires_grad_(), target=2).detach()
    error = np.abs(found["attribution"][:, 0] - peer.numpy()).max() / np.abs(peer.numpy()).max()
    assert error < 1e-6


def _use_relus_once(network):
    """Give each ReLU of a residual block a module of its own: Captum refuses modules used twice."""
    from torchvision.models.resnet import BasicBlock

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu2(out + (x if self.downsample is None else self.downsample(x)))

    for module in network.modules():
        if isinstance(module, BasicBlock):
            module.relu2 = nn.ReLU()
            module.forward = forward.__get__(module)


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "densenet121", "resnet50"])
def test_relu_networks_are_accepted(architecture):
    network = build(f"torchvision:{architecture}", 3).eval()
    found = explain(network, torch.randn(1, 3, 64, 64), Deconvnet(), micro_batch=1)["attribution"]
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 0


@pytest.mark.parametrize(
    ("architecture", "name"), [("convnext_tiny", "gelu"), ("efficientnet_b0", "silu")]
)
@pytest.mark.parametrize("method", [Deconvnet(), GuidedBackprop()])
def test_other_nonlinearities_are_refused(method, architecture, name):
    network = build(f"torchvision:{architecture}", 3)
    with pytest.raises(ValueError, match=rf"{method.name} is defined for ReLU .* uses {name}"):
        explain(network, torch.zeros(1, 3, 64, 64), method)


def test_a_network_without_relus_is_refused(linear, some_images):
    with pytest.raises(ValueError, match="no ReLU runs in this network"):
        explain(linear[0], some_images, Deconvnet(), precision="float64")


def test_projections_of_one_activation_each_equal_separate_ones():
    network = convolutional_network(2, 5).eval().requires_grad_(False)
    images = torch.randn(3, 2, 9, 8, generator=torch.Generator().manual_seed(2))
    with captured(network, ["6"]) as outputs:
        network(images.clone())
    channels = [4, 0, 2]
    places = [divmod(int(outputs["6"][r, c].argmax()), 2) for r, c in enumerate(channels)]
    together = project(network, images, "6", channels, places)
    for row in range(3):
        alone = project(network, images[row : row + 1], "6", [channels[row]], [places[row]])
        torch.testing.assert_close(together[row : row + 1], alone)
