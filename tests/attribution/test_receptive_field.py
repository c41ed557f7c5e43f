"""Receptive fields against sets of pixels, published numbers and gradients."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from attribution.receptive_field import Field, fields, input_rectangles

# A step of a chain: kernel, stride, padding, dilation.
steps = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2))


def chain(geometries):
    layers = []
    for number, (kernel, stride, padding, dilation) in enumerate(geometries):
        if number % 2 and padding <= kernel // 2:
            layers.append(nn.MaxPool2d(kernel, stride, padding, dilation))
        else:
            layers.append(nn.Conv2d(2, 2, kernel, stride, padding, dilation))
        layers.append(nn.ReLU())
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(*layers))


def pixels_seen(geometries, size):
    """The set of pixels behind each position along one axis."""
    seen = [{pixel} for pixel in range(size)]
    for kernel, stride, padding, dilation in geometries:
        count = (len(seen) + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        taps = [
            [p * stride - padding + dilation * tap for tap in range(kernel)] for p in range(count)
        ]
        seen = [set().union(*(seen[t] for t in row if 0 <= t < len(seen))) for row in taps]
    return seen


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.lists(steps, min_size=1, max_size=4))
def test_chains_see_the_pixels_that_their_windows_hold(geometries):
    assume(max(stride for _, stride, _, _ in geometries) ** len(geometries) < 30)
    seen = pixels_seen(geometries, 60)
    assume(len(seen) > 1)
    found = input_rectangles(chain(geometries), (1, 60, 58), ["1"])["1"]
    seen_y, seen_x = seen, pixels_seen(geometries, 58)
    assert found.shape == (len(seen_y), len(seen_x), 4)
    for y, pixels_y in enumerate(seen_y):
        for x, pixels_x in enumerate(seen_x):
            box = [0, 0, 0, 0]
            if pixels_y and pixels_x:
                box = [min(pixels_y), min(pixels_x), max(pixels_y) + 1, max(pixels_x) + 1]
            assert found[y, x].tolist() == box


@settings(deadline=None, derandomize=True, max_examples=12)
@given(st.lists(steps, min_size=1, max_size=3))
def test_sizes_of_chains_follow_the_closed_form(geometries):
    size, stride = 1, 1
    for kernel, step, _, dilation in geometries:
        size += (kernel - 1) * dilation * stride
        stride *= step
    assume(len(pixels_seen(geometries, 40)) > 1)
    field = Field(size, stride)
    assert fields(chain(geometries), (1, 40, 40), ["1"])["1"] == (field, field)


def test_resnet18_has_its_published_fields():
    # Araujo, Norris & Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks".
    from torchvision.models import resnet18

    network = resnet18().eval()
    published = {"conv1": (7, 2), "maxpool": (11, 4), "layer1": (43, 4), "layer2": (99, 8)}
    published |= {"layer3": (211, 16), "layer4": (435, 32)}
    found = fields(network, (3, 64, 64), [*published, "fc"])
    assert found.pop("fc") == (None, None)
    assert found == {name: (Field(*field),) * 2 for name, field in published.items()}
    boxes = input_rectangles(network, (3, 224, 224), ["conv1", "layer3", "layer4", "fc"])
    assert boxes["conv1"][1, 0].tolist() == [0, 0, 6, 4]
    assert boxes["layer3"][7, 7].tolist() == [7, 7, 218, 218]
    assert boxes["layer4"][6, 0].tolist() == [0, 0, 224, 218]
    assert boxes["fc"].tolist() == [[[0, 0, 224, 224]]]


class Everything(nn.Module):
    """What networks do, in functions and in place, followed by ``last`` that keeps positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, stride=2, padding="valid", padding_mode="zeros")
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, (3, 1), padding="same", groups=4, dilation=2)
        self.shift = nn.Parameter(torch.randn(8, 1, 1))
        self.layer_norm = nn.LayerNorm(8)
        self.mirrored = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.last = nn.Identity()
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat((x[:, 1:] * 2 - 1, torch.zeros_like(x[:, :1]) + x[:, :1]), dim=1)
        x = functional.relu_(self.norm(self.stem(x)))
        before = x
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
        x += torch.sigmoid(self.grouped(before)) * self.shift
        x = functional.avg_pool2d(x, 3, 2, 1) + functional.max_pool2d(before, 2, ceil_mode=True)
        x = self.layer_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = functional.pixel_unshuffle(functional.pixel_shuffle(x, 2), 2)
        first, second = self.mirrored(functional.gelu(x)).chunk(2, dim=1)
        x = self.last(torch.cat((torch.maximum(first, second), first.clone().mul_(second)), dim=1))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def influence(network, layer, shape, trials=4):
    """Which pixels have a gradient at a position's output, for random weights and images."""
    seen = None
    for _ in range(trials):
        image = torch.randn(1, *shape, dtype=torch.float64, requires_grad=True)
        outputs = {}
        handle = layer.register_forward_hook(lambda _m, _i, out, to=outputs: to.update(out=out))
        network(image.clone())
        handle.remove()
        score = outputs["out"][0].pow(2).sum(dim=0)
        gradients = [
            [
                torch.autograd.grad(value, image, retain_graph=True)[0][0].abs().sum(dim=0) > 0
                for value in row
            ]
            for row in score
        ]
        stacked = torch.stack([torch.stack(row) for row in gradients]).numpy()
        seen = stacked if seen is None else seen | stacked
    return seen


def edges(seen):
    """The smallest rectangles around what is seen."""
    rows, columns = seen.any(axis=3), seen.any(axis=2)
    y0, x0 = rows.argmax(axis=2), columns.argmax(axis=2)
    y1 = rows.shape[2] - rows[..., ::-1].argmax(axis=2)
    x1 = columns.shape[2] - columns[..., ::-1].argmax(axis=2)
    return np.stack([y0, x0, y1, x1], axis=-1)


def test_rectangles_are_as_tight_as_the_gradients():
    torch.manual_seed(1)
    network = Everything().double().eval()
    found = input_rectangles(network, (2, 27, 23), ["last"])["last"]
    np.testing.assert_array_equal(found, edges(influence(network, network.last, (2, 27, 23))))


class Attending(nn.Module):
    """A convolution, and then something that is not known or mixes all positions."""

    def __init__(self, mix) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.mix = mix
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.mix(self.first(x))).mean(dim=(2, 3))


def add_to_some_channels(x):
    x[:, :2].add_(x[:, 2:].flip(-1))
    return x


def overwrite_a_channel(x):
    x[:, 0] = x[:, 1].flip(-1)
    return x


@pytest.mark.parametrize(
    "mix",
    [
        add_to_some_channels,
        overwrite_a_channel,
        lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
        lambda x: functional.group_norm(x, 2),
        lambda x: torch.einsum("nchw,ndhw->nchw", x, x) + x.sum(),
        lambda x: torch.fft.fft2(x).real,
        lambda x: functional.softmax(x.flatten(2), dim=-1).view_as(x),
        lambda x: functional.scaled_dot_product_attention(x, x, x),
        lambda x: functional.interpolate(functional.interpolate(x, 3), x.shape[-2:]),
        lambda x: x - x.amax((2, 3), keepdim=True),
        lambda x: functional.conv2d(x, x.mean((0, 2, 3)).expand(4, 4)[..., None, None]),
    ],
)
def test_what_mixes_positions_or_is_unknown_is_never_too_small(mix):
    torch.manual_seed(0)
    network = Attending(mix).double().eval()
    found = input_rectangles(network, (1, 10, 9), ["first", "last"])
    seen = edges(influence(network, network.last, (1, 10, 9)))
    assert (found["last"][..., :2] <= seen[..., :2]).all()
    assert (found["last"][..., 2:] >= seen[..., 2:]).all()
    assert found["first"][2, 1].tolist() == [2, 1, 5, 4]


def test_what_cannot_be_followed_is_the_whole_image():
    def through_a_constant(x):
        copy = torch.zeros(x.shape, dtype=x.dtype)
        copy[:, :, 1:] = x[:, :, 1:]
        return copy

    def through_numpy(x):
        return torch.from_numpy(x.detach().numpy())

    for mix in (through_a_constant, through_numpy):
        network = Attending(mix).double().eval()
        assert (input_rectangles(network, (1, 6, 5), ["last"])["last"] == [0, 0, 6, 5]).all()


def test_a_network_of_one_size_has_the_fields_that_fit_its_image():
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, stride=2), nn.Flatten(), nn.Linear(2 * 9 * 8, 2)
    )
    found = fields(network, (1, 21, 19), ["0", "1"])
    assert found == {"0": (Field(3, 1), Field(3, 1)), "1": (Field(5, 2), Field(5, 2))}


def test_the_network_is_left_as_it_was():
    network = Everything().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fields(network, (2, 27, 23), ["last"])
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_adaptive_pooling_has_no_size_of_its_own():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveMaxPool2d(8))
    # 30 pixels are shared out unevenly; four times as many evenly, but that is another network.
    assert fields(network, (1, 30, 32), ["1"])["1"] == (None, Field(4, 4))
    found = input_rectangles(network, (1, 30, 32), ["1"])["1"]
    assert found[:3, 1].tolist() == [[0, 4, 4, 8], [3, 4, 8, 8], [7, 4, 12, 8]]
