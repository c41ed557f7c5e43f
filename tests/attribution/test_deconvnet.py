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

from attribution import GradientXInput, explain
from attribution.arrays import Layout
from attribution.batch import Batch
from attribution.deconvnet import Deconvnet, GuidedBackprop, project
from attribution.layers import captured
from attribution.relu_rules import relu_rule
from training.networks import build

PEERS = {Deconvnet: Deconvolution, GuidedBackprop: CaptumGuided}


class TestDeconvnet(MethodConformance):
    methods = st.just(Deconvnet())


class TestGuidedBackprop(MethodConformance):
    methods = st.just(GuidedBackprop())


def test_a_chain_of_two_relus_by_hand(formula):
    def chain(x):
        late = F.relu(2 * F.relu(x) - 5)
        turned = F.relu(1 - F.relu(x))
        return torch.stack((3 * late, -3 * late, turned), dim=1).sum(dim=(2, 3, 4))

    # At the three pixels the first ReLU is off, on, on; the second of `late` off, off, on.
    x = torch.tensor([[[[-1.0, 0.5, 4.0]]]])
    targets = [0, 1, 2]
    found = explain(formula(chain), x, Deconvnet(), targets=targets)["attribution"]
    # 3 passes, times 2 passes, whatever was on; -3 does not, and what -1 turns round does not.
    assert found[0, :, 0].tolist() == [[6, 6, 6], [0, 0, 0], [0, 0, 0]]
    found = explain(formula(chain), x, GuidedBackprop(), targets=targets)["attribution"]
    assert found[0, :, 0].tolist() == [[0, 0, 6], [0, 0, 0], [0, 0, 0]]
    found = explain(formula(chain), x, GradientXInput(), targets=targets)["attribution"]
    assert found[0, :, 0].tolist() == [[0, 0, 6 * 4], [0, 0, -6 * 4], [0, -0.5, 0]]


def test_deconvnet_ignores_the_sign_of_the_input_and_guided_does_not(formula):
    network = formula(lambda x: torch.stack((x.relu(), (-x).relu()), dim=1).sum(dim=(2, 3, 4)))
    x = torch.tensor([[[[-1.0, 2.0]]]])
    found = explain(network, x, Deconvnet(), targets=[0, 1])["attribution"]
    assert found[0, :, 0].tolist() == [[1, 1], [-1, -1]]
    found = explain(network, x, GuidedBackprop(), targets=[0, 1])["attribution"]
    assert found[0, :, 0].tolist() == [[0, 1], [-1, 0]]


BOUNDED = {
    "relu6": F.relu6,
    "relu6_in_place": lambda x: F.relu6(x, inplace=True),
    "relu6_module": nn.ReLU6(),
    "hardtanh": lambda x: F.hardtanh(x, 0, 6),
    "hardtanh_in_place": lambda x: F.hardtanh(x, 0, 6, True),
    "hardtanh_in_place_function": lambda x: F.hardtanh_(x, 0, 6),
}


@pytest.mark.parametrize("style", BOUNDED)
def test_a_relu_with_a_bound_is_active_below_it(formula, style):
    # What comes back: 1, 1, 1, -1.
    weights = torch.tensor([1.0, 1, 1, -1])
    network = formula(lambda x: (BOUNDED[style](2 * x) * weights).sum(dim=(2, 3)))
    x = torch.tensor([[[[-1.0, 1.0, 4.0, 1.0]]]])
    for rule in ("deconvnet", "guided"):
        with relu_rule(rule):
            assert network(x).tolist() == [[0 + 2 + 6 - 2]]
    found = explain(network, x, Deconvnet(), targets=0)["attribution"]
    assert found.ravel().tolist() == [2, 2, 2, 0]
    found = explain(network, x, GuidedBackprop(), targets=0)["attribution"]
    assert found.ravel().tolist() == [0, 2, 0, 0]


def test_a_clip_of_values_and_a_gate_keep_their_gradients(formula):
    network = formula(lambda x: -(torch.clamp(x, 0, 1) + x.relu() * 0).sum(dim=(2, 3)))
    x = torch.tensor([[[[-1.0, 0.5, 2.0]]]])
    found = explain(network, x, Deconvnet(), targets=0)["attribution"]
    assert found.ravel().tolist() == [0, -1, 0]
    gated = formula(lambda x: -(torch.sigmoid(x) + x.relu() * 0).sum(dim=(2, 3)))
    found = explain(gated, torch.zeros(1, 1, 1, 2), Deconvnet(), targets=0)["attribution"]
    assert found.ravel().tolist() == [-0.25, -0.25]


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


def _relu_of_views(x):
    for view in (x[:, :2], x[:, 2:]):
        view.relu_()


UNASSIGNED = {
    "in_place_function_unassigned": F.relu_,
    "in_place_argument_unassigned": lambda x: F.relu(x, True),
    "in_place_keyword_unassigned": lambda x: F.relu(x, inplace=True),
    "in_place_hardtanh_unassigned": lambda x: F.hardtanh(x, 0.0, 1e9, True),
    "in_place_views_unassigned": _relu_of_views,
}


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
        if self.style in UNASSIGNED:
            UNASSIGNED[self.style](x)
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
            "clamp": lambda: torch.clamp(x, min=0),
            "clamp_positional": lambda: x.clamp(0.0),
            "clamp_in_place": lambda: x.clamp_(min=0),
            "clip": lambda: x.clip(0, None),
            "clamp_min": lambda: x.clamp_min(0),
        }[self.style]()

    def forward(self, x):
        x = self.relu(self.first(x), 0)
        x = self.relu(self.second(x) + x.mean(), 1)
        return self.head(F.max_pool2d(x, 4).flatten(1))


STYLES = [
    "reused_in_place",
    "function",
    "torch",
    "method",
    "in_place_function",
    "in_place_method",
    "hardtanh",
    "clamp",
    "clamp_positional",
    "clamp_in_place",
    "clip",
    "clamp_min",
    *UNASSIGNED,
]


@pytest.mark.parametrize("method", [Deconvnet(), GuidedBackprop()])
@pytest.mark.parametrize("style", STYLES)
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
@pytest.mark.parametrize("architecture", ["small", "resnet18", "vgg16"])
def test_captum_agrees(architecture):
    torch.manual_seed(0)
    size = 9 if architecture == "small" else 64
    if architecture == "small":
        network = convolutional_network(3, 4)
    else:
        network = build(f"torchvision:{architecture}", 4)
    network.eval()
    images = torch.randn(2, 3, size, size)
    methods = (Deconvnet(), GuidedBackprop())
    options = {"targets": 2, "channels": "keep", "micro_batch": 2}
    ours = [explain(network, images, method, **options)["attribution"][:, 0] for method in methods]
    # Captum hooks modules, and does so wrongly where they work in place.
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    if architecture == "resnet18":
        _use_relus_once(network)
    for method, found in zip(methods, ours, strict=True):
        peer = PEERS[type(method)](network).attribute(images.requires_grad_(), target=2)
        peer = peer.detach().numpy()
        assert np.abs(found - peer).max() < 1e-6 * np.abs(peer).max()


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
def test_networks_of_other_nonlinearities_are_refused(architecture, name):
    network = build(f"torchvision:{architecture}", 3)
    with pytest.raises(ValueError, match=rf"deconvnet is defined for ReLU .* uses {name}: .*; use"):
        explain(network, torch.zeros(1, 3, 64, 64), Deconvnet())


OTHERS = {
    "celu": F.celu,
    "elu": nn.ELU(),
    "gelu": F.gelu,
    "glu": F.glu,
    "hardshrink": F.hardshrink,
    "hardswish": nn.Hardswish(inplace=True),
    "hardtanh": F.hardtanh,
    "leaky_relu": nn.LeakyReLU(inplace=True),
    "log_sigmoid": F.logsigmoid,
    "mish": F.mish,
    "prelu": nn.PReLU(),
    "rrelu": F.rrelu_,
    "selu": F.selu,
    "silu": nn.SiLU(),
    "softplus": F.softplus,
    "softshrink": F.softshrink,
    "softsign": F.softsign,
    "tanh": lambda x: x.tanh_(),
    "tanhshrink": F.tanhshrink,
    "threshold": nn.Threshold(0, 0),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_relu_does_not_hide_another_nonlinearity(formula, name):
    network = formula(lambda x: F.relu(OTHERS[name](2 * x)).sum(dim=(2, 3)))
    with pytest.raises(ValueError, match=rf"guided_backprop is defined .* this one uses {name}"):
        explain(network, torch.zeros(1, 2, 4, 4), GuidedBackprop())


@pytest.mark.parametrize("channels", ["sum", "keep"])
def test_maps_are_no_views_of_the_merged_terms(channels):
    images = torch.ones(2, 2, 9, 8)
    batch = Batch(convolutional_network(2, 5).eval(), images, np.ones(2, bool), ["a", "b"])
    targets = np.array([[0], [1]])
    terms = Deconvnet().terms(batch, targets, range(1))
    layout = Layout((2, 9, 8), 5, channels=channels)
    found = Deconvnet().finish(terms, batch, targets, layout)["attribution"]
    assert not np.shares_memory(found, terms["gradient"])


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


def test_a_projection_starts_from_the_activation_of_a_relu_or_before_it():
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(inplace=True), nn.Flatten())
    nn.init.constant_(network[0].weight, -2)
    x = torch.tensor([[[[3.0, -4.0]]]])
    assert project(network, x, "0", [0], [(0, 0)]).tolist() == [[[[12, 0]]]]
    assert project(network, x, "1", [0], [(0, 0)]).tolist() == [[[[0, 0]]]]
    assert project(network, x, "1", [0], [(0, 1)]).tolist() == [[[[0, -16]]]]


def test_a_projection_is_rectified_on_its_way_back():
    network = nn.Sequential(
        nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten()
    )
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([2.0, -2.0]).reshape(2, 1, 1, 1))
        network[2].bias.fill_(5)
        network[0].weight.fill_(3)
    x = torch.tensor([[[[-1.0]]]]).repeat(2, 1, 1, 1)
    # Both channels put out 5. One sends 10 back through the ReLU that was off, the other -10.
    assert project(network, x, "3", [0, 1], [(0, 0)] * 2).ravel().tolist() == [30, 0]


def test_a_projection_leaves_its_images_to_a_network_that_overwrites_its_input(formula):
    def overwriting(x):
        x -= 1
        return relu(x).flatten(1)

    relu = nn.ReLU()
    network = formula(overwriting)
    network.relu = relu
    x = torch.full((1, 1, 1, 2), 3.0)
    assert project(network, x, "relu", [0], [(0, 0)]).ravel().tolist() == [2, 0]
    assert x.tolist() == [[[[3, 3]]]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("10", [0], [(0, 0)]), r"layer '10' puts out shape \(5,\), which has no positions"),
        (("6", [6], [(0, 0)]), r"shape \(6, 2, 2\); \(6, 0, 0\) is outside it"),
        (("6", [0], [(-1, 0)]), r"\(0, -1, 0\) is outside it"),
        (("6", [0, 1], [(0, 0), (1, 1)]), "2 channels and positions for 1 images"),
        (("conv", [0], [(0, 0)]), "layer 'conv': the network has no such layer"),
    ],
)
def test_places_that_a_layer_does_not_have_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        project(convolutional_network(2, 5).eval(), torch.zeros(1, 2, 9, 8), *arguments)


def test_projections_of_other_networks_are_refused():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.GELU(), nn.Flatten())
    with pytest.raises(ValueError, match=r"projection is defined for ReLU .* uses gelu"):
        project(network, torch.zeros(1, 1, 2, 2), "0", [0], [(0, 0)])
