import numpy as np
import pytest
import torch
from captum.attr import Saliency as CaptumSaliency
from conformance.methods import MethodConformance, convolutional_network
from hypothesis import strategies as st

from attribution import explain
from attribution.batch import Batch
from attribution.randomness import random_normal
from attribution.smoothgrad import SmoothGrad, VarGrad

MAGNITUDES = st.sampled_from(["signed", "absolute", "squared"])


class TestSmoothGrad(MethodConformance):
    methods = st.builds(SmoothGrad, samples=st.integers(2, 9), magnitude=MAGNITUDES)


class TestVarGrad(MethodConformance):
    methods = st.builds(VarGrad, samples=st.integers(2, 9), magnitude=MAGNITUDES)


@pytest.mark.parametrize("magnitude", ["signed", "absolute", "squared"])
def test_captums_gradients_at_the_same_noisy_copies_agree(magnitude):
    network = convolutional_network(2, 5).eval()
    images = torch.randn(3, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    options = {"samples": 7, "noise": 0.2, "magnitude": magnitude}
    copies = _copies(SmoothGrad(**options), images)
    measure = {"signed": lambda g: g, "absolute": torch.abs, "squared": torch.square}[magnitude]
    gradients = torch.stack(
        [
            measure(CaptumSaliency(network).attribute(copy.requires_grad_(), 3, abs=False)).double()
            for copy in copies
        ]
    )
    for method, expected in (
        (SmoothGrad(**options), gradients.mean(dim=0)),
        (VarGrad(**options), gradients.var(dim=0, unbiased=False)),
    ):
        found = explain(network, images, method, targets=3, channels="keep", micro_batch=3)
        error = np.abs(found["attribution"][:, 0] - expected.numpy()).max()
        assert error < 1e-6 * expected.abs().max()


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
    with pytest.raises(ValueError, match="noise 0"):
        VarGrad(noise=0)
    with pytest.raises(ValueError, match="magnitude is 'abs'; choose signed, absolute, squared"):
        SmoothGrad(magnitude="abs")
