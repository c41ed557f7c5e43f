"""Captum, the reference implementation in PyTorch, gives the same attributions.

Shape suffixes: N objects, T targets, C channels, H height, W width.
"""

import warnings
from dataclasses import dataclass

import captum.attr
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attribution import GradientXInput, IntegratedGradients, Occlusion, Saliency, explain
from attribution.batch import Needs
from attribution.explain import make_batch
from attribution.fills import canvas

CLASSES = 4
TOLERANCE = 1e-6
RULES = {
    "gauss_legendre": "gausslegendre",
    "midpoint": "riemann_middle",
    "riemann_left": "riemann_left",
    "riemann_right": "riemann_right",
}
drawn = settings(max_examples=60, deadline=None, derandomize=True)
precisions = pytest.mark.parametrize("precision", ["float32", "float64"])


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Spare the reference the threads, which cost more than these passes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass
class Case:
    """A network with images and two targets per object."""

    network: nn.Module
    images: Tensor
    targets: Tensor

    def to(self, precision: str) -> "Case":
        dtype = getattr(torch, precision)
        return Case(self.network.to(dtype), self.images.to(dtype), self.targets)


@st.composite
def cases(draw):
    """Random convolutional networks on images of random shape."""
    channels, width = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    height, breadth = draw(st.tuples(st.integers(6, 15), st.integers(6, 15)))
    kernel, padding = draw(st.sampled_from([(1, 0), (3, 0), (3, 1), (5, 2)]))
    with torch.random.fork_rng():
        torch.manual_seed(draw(st.integers(0, 2**31)))
        body = nn.Sequential(
            nn.Conv2d(channels, width, kernel, padding=padding),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, ceil_mode=draw(st.booleans())),
            nn.Conv2d(width, 5, 2),
            nn.ReLU(),
            nn.Flatten(),
        )
        for value in (body[1].running_mean, body[1].weight, body[1].bias):
            nn.init.normal_(value)
        nn.init.uniform_(body[1].running_var, 0.5, 2)
        count = draw(st.integers(1, 3))
        images = torch.randn(count, channels, height, breadth) * draw(st.sampled_from([0.1, 1, 20]))
        features = body.eval()(images).shape[1]
        network = nn.Sequential(body, nn.Linear(features, CLASSES)).eval()
        targets = torch.randint(CLASSES, (count, 2))
    return Case(network, images, targets)


@st.composite
def occlusions(draw, image_shape):
    """Windows, strides and fills that fit an image."""
    window = tuple(draw(st.integers(1, size)) for size in image_shape[1:])
    # A stride of a few pixels at most keeps the reference's many passes few.
    stride = tuple(draw(st.integers(max(1, size // 2), size)) for size in window)
    value = st.sampled_from([0.0, 1.0, -0.5, 0.3])
    fill = draw(value | st.tuples(*[value] * image_shape[0]))
    return Occlusion(window, stride, fill)


def ours(case, method, precision, micro_batch=8):
    return explain(
        case.network, case.images, method, targets=case.targets, precision=precision,
        channels="keep", micro_batch=micro_batch,
    )  # fmt: skip


def theirs(case, peer, /, **options):
    """Run Captum's class for each target in turn."""
    columns = []
    for target in case.targets.T:
        with warnings.catch_warnings():
            # Captum sets requires_grad and resets it, and says so every time.
            warnings.filterwarnings("ignore", "Input Tensor .* (required|accepted) grad|.*require")
            attribution = peer(case.network).attribute(
                case.images.clone(), target=target, **options
            )
        columns.append(attribution.detach())
    return torch.stack(columns, dim=1).numpy()


def assert_agrees(case, found, reference, precision):
    """Compare relative to the largest attribution, and in float32 to the score's own rounding."""
    scale = np.abs(reference).max()
    if precision == "float32":
        with torch.inference_mode():
            scale = max(scale, float(case.network(case.images).abs().max()))
    assert found.shape == reference.shape
    np.testing.assert_allclose(found, reference, rtol=0, atol=TOLERANCE * scale)


@precisions
@drawn
@given(cases(), st.data())
def test_occlusion(precision, case, data):
    method = data.draw(occlusions(case.images.shape[1:]))
    check_occlusion(case.to(precision), method, precision)


def check_occlusion(case, method, precision, micro_batch=8):
    channels, *image_shape = case.images.shape[1:]
    grid = ours(case, method, precision, micro_batch)["grid"]
    found = Occlusion.expand(grid, tuple(image_shape), method.window, method.stride)
    fill = torch.as_tensor(method.fill, dtype=case.images.dtype).reshape(1, -1, 1, 1)
    reference = theirs(
        case,
        captum.attr.Occlusion,
        sliding_window_shapes=(channels, *method.window),
        strides=(channels, *method.stride),
        baselines=fill.expand(1, channels, *image_shape),
    )
    # Captum repeats the window's value in every channel.
    assert_agrees(case, found, reference[:, :, 0], precision)


@st.composite
def integrated_gradients(draw, channels):
    """Any rule and baseline for which the gradients along the path exist."""
    rule = draw(st.sampled_from(list(RULES)))
    # riemann_left looks at the baseline itself. On a grey image all neighbours tie in max-pooling
    # but for rounding, which the number of rows of a pass changes; on a black one the tie is exact.
    values = st.tuples(*[st.sampled_from([0.7, -0.4, 0.2])] * channels)
    others = st.sampled_from(["black", 0.7, "image_mean", "blur", "sky_noise"]) | values
    baseline = "black" if rule == "riemann_left" else draw(others)
    draws = draw(st.integers(1, 3)) if baseline == "sky_noise" else 1
    steps = draw(st.integers(2, 12))
    return IntegratedGradients(steps, rule, baseline, blur_sigma=2.0, draws=draws)


@precisions
@drawn
@given(cases(), st.data())
def test_integrated_gradients(precision, case, data):
    method = data.draw(integrated_gradients(case.images.shape[1]))
    check_integrated_gradients(case.to(precision), method, precision)


def check_integrated_gradients(case, method, precision):
    found = ours(case, method, precision)["attribution"]
    fill = 0.0 if method.baseline == "black" else method.baseline
    names = [str(n) for n in range(len(case.images))]
    batch = make_batch(case.network, case.images, names, len(case.images), seed=0, needs=Needs())
    reference = sum(
        theirs(
            case,
            captum.attr.IntegratedGradients,
            baselines=torch.stack(
                [
                    canvas(batch, n, fill, blur_sigma=method.blur_sigma, draw=d).expand_as(image)
                    for n, image in enumerate(case.images)
                ]
            ),
            n_steps=method.steps,
            method=RULES[method.rule],
        )
        for d in range(method.draws)
    )
    assert_agrees(case, found, reference / method.draws, precision)


@precisions
@pytest.mark.parametrize(
    ("method", "peer"),
    [(GradientXInput(), captum.attr.InputXGradient), (Saliency(), captum.attr.Saliency)],
    ids=["gradient_x_input", "saliency"],
)
@drawn
@given(cases())
def test_gradients(precision, method, peer, case):
    case = case.to(precision)
    found = ours(case, method, precision)["attribution"]
    assert_agrees(case, found, theirs(case, peer), precision)


@pytest.fixture(scope="module")
def resnet18():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.resnet18(num_classes=CLASSES).eval()
        return Case(network, torch.randn(1, 3, 64, 64), torch.tensor([[3, 1]]))


@precisions
def test_resnet18(precision, resnet18):
    case = resnet18.to(precision)
    # So deep a network's own float32 rounding, up to 1.7e-6 of the score, changes with the rows of
    # a pass. Captum's passes have one row here.
    check_occlusion(case, Occlusion((24, 20), (16, 20), 0.5), precision, micro_batch=1)
    for rule in ("gauss_legendre", "midpoint"):
        check_integrated_gradients(case, IntegratedGradients(4, rule), precision)
    for method, peer in (
        (GradientXInput(), captum.attr.InputXGradient),
        (Saliency(), captum.attr.Saliency),
    ):
        found = ours(case, method, precision)["attribution"]
        assert_agrees(case, found, theirs(case, peer), precision)
