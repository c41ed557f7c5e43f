import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel
from captum.attr import Saliency as CaptumSaliency
from conformance.methods import MethodConformance, convolutional_network
from hypothesis import strategies as st

from attribution import explain
from attribution.arrays import Layout
from attribution.batch import Batch
from attribution.randomness import random_normal
from attribution.smoothgrad import SmoothGrad, VarGrad

MAGNITUDES = st.sampled_from(["signed", "absolute", "squared"])


class TestSmoothGrad(MethodConformance):
    methods = st.builds(SmoothGrad, samples=st.integers(2, 9), magnitude=MAGNITUDES)


class TestVarGrad(MethodConformance):
    methods = st.builds(VarGrad, samples=st.integers(2, 9), magnitude=MAGNITUDES)


@pytest.mark.parametrize(
    ("method", "captum_name", "absolute"),
    [
        (SmoothGrad(samples=7), "smoothgrad", False),
        (SmoothGrad(samples=7, noise=0.5), "smoothgrad", False),
        (SmoothGrad(samples=7, magnitude="absolute"), "smoothgrad", True),
        (SmoothGrad(samples=7, magnitude="squared"), "smoothgrad_sq", False),
        (VarGrad(samples=7), "vargrad", False),
        (VarGrad(samples=7, magnitude="absolute"), "vargrad", True),
    ],
)
def test_captum_agrees_on_the_same_noisy_copies(method, captum_name, absolute, monkeypatch):
    network = convolutional_network(2, 5).eval()
    images = torch.randn(3, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    options = {"targets": 3, "channels": "keep", "micro_batch": 3}
    found = explain(network, images, method, **options)["attribution"][:, 0]
    noise = iter([copy - images for copy in _copies(method, images.double())])
    monkeypatch.setattr(torch, "normal", lambda *_: next(noise))
    peer = (
        NoiseTunnel(CaptumSaliency(network.double()))
        .attribute(
            images.double(),
            nt_type=captum_name,
            nt_samples=7,
            nt_samples_batch_size=1,
            target=3,
            abs=absolute,
        )
        .detach()
        .numpy()
    )
    assert next(noise, None) is None
    assert np.abs(found - peer).max() < 1e-6 * np.abs(peer).max()


def _copies(method, images):
    ids = [str(n) for n in range(len(images))]
    batch = Batch(torch.nn.Identity(), images, np.ones(len(images), bool), ids, seed=0)
    return [images + method._draw(batch, sample) for sample in range(method.samples)]


def test_the_noise_is_a_share_of_each_images_range():
    images = torch.stack((torch.linspace(0, 1, 5000), torch.linspace(-50, 50, 5000)))
    method = SmoothGrad(samples=40, noise=0.1)
    images = images.reshape(2, 1, 50, 100)
    noise = torch.stack(_copies(method, images)) - images
    spread = noise.std(dim=(0, 2, 3, 4))
    torch.testing.assert_close(spread, torch.tensor([0.1, 10.0]), rtol=0.01, atol=0)
    assert abs(noise[:, 0].mean()) < 0.001


def test_a_linear_network_has_one_gradient(linear, some_images):
    network, weights = linear
    options = {"targets": 1, "precision": "float64", "channels": "keep"}
    smooth = explain(network, some_images, SmoothGrad(samples=5), **options)["attribution"]
    np.testing.assert_allclose(smooth, np.broadcast_to(weights[1], smooth.shape), rtol=1e-12)
    variance = explain(network, some_images, VarGrad(samples=5), **options)["attribution"]
    np.testing.assert_allclose(variance, 0, atol=1e-12)


def test_the_variance_of_a_gradient_that_is_linear_in_the_image(formula):
    # f = sum of 3 x^2: the gradient is 6 x, and its variance 36 noise^2 (max - min)^2.
    network = formula(lambda x: 3 * (x**2).sum(dim=(2, 3)))
    image = torch.tensor([0.0, 2.0]).repeat(1000).reshape(1, 1, 40, 50)
    found = explain(network, image, VarGrad(samples=40, noise=0.1), targets=0)["attribution"]
    np.testing.assert_allclose(found.mean(), 36 * 0.1**2 * 2**2 * 39 / 40, rtol=0.02)


def test_arrays_say_what_was_averaged():
    layout = Layout((3, 8, 8), 2)
    described = [
        method.arrays(layout)[0]
        for method in (SmoothGrad(), SmoothGrad(magnitude="squared"), VarGrad(magnitude="absolute"))
    ]
    assert [spec.units for spec in described] == [
        "logit per input unit",
        "(logit per input unit)^2",
        "(logit per input unit)^2",
    ]
    at = "at x + noise * (max(x) - min(x)) * N(0, 1)"
    assert [spec.convention for spec in described] == [
        f"Smilkov 2017; mean of dS/dx {at}",
        f"Smilkov 2017; mean of (dS/dx)^2 {at}",
        f"Adebayo 2018; variance (1/n) of |dS/dx| {at}",
    ]


def test_normal_numbers_are_normal_and_a_function_of_the_key():
    keys = [3, 2**63]
    draws = random_normal(keys, 200_001, torch.device("cpu"))
    assert draws.shape == (2, 200_001)
    torch.testing.assert_close(draws.mean(dim=1), torch.zeros(2).double(), atol=0.01, rtol=0)
    torch.testing.assert_close(draws.var(dim=1), torch.ones(2).double(), atol=0.01, rtol=0)
    torch.testing.assert_close(
        (draws**4).mean(dim=1), 3 * torch.ones(2).double(), atol=0.06, rtol=0
    )
    assert abs(torch.corrcoef(draws)[0, 1]) < 0.01
    assert torch.equal(random_normal(keys[1:], 200_001, torch.device("cpu"))[0], draws[1])


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match="samples is 1"):
        SmoothGrad(samples=1)
    for noise in (0, -0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"noise {noise}; .* noise above 0"):
            VarGrad(noise=noise)
    with pytest.raises(ValueError, match="magnitude is 'abs'; choose signed, absolute, squared"):
        SmoothGrad(magnitude="abs")
