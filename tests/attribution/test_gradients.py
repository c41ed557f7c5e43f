import numpy as np
import pytest
import torch

from attribution import GradientXInput, Saliency, explain


def test_a_linear_network_gives_weight_times_input_and_the_absolute_weight(linear, some_images):
    network, weights = linear
    both = {"targets": [2, 0], "precision": "float64", "channels": "keep", "micro_batch": 4}
    product = explain(network, some_images, GradientXInput(), **both)["attribution"]
    expected = (some_images[:, None] * weights[[2, 0]]).numpy()
    np.testing.assert_allclose(product, expected, rtol=1e-14)
    absolute = explain(network, some_images, Saliency(), **both)["attribution"]
    np.testing.assert_allclose(
        absolute, np.broadcast_to(weights[[2, 0]].abs().numpy(), absolute.shape), rtol=1e-14
    )


def test_saliency_sums_absolute_values_over_channels(linear, some_images):
    network, weights = linear
    saliency = explain(network, some_images, Saliency(), targets=1, precision="float64")
    expected = weights[1].abs().sum(dim=0).numpy()
    np.testing.assert_allclose(saliency["attribution"][3, 0], expected, rtol=1e-14)


def test_the_gradient_is_taken_at_the_image(formula):
    network = formula(lambda x: (x**3).flatten(2).sum(dim=2))
    images = torch.tensor([[[[-2.0, 0.5]]], [[[1.0, 3.0]]]])
    found = explain(network, images, GradientXInput(), targets=0)["attribution"]
    np.testing.assert_allclose(found[:, 0], 3 * images[:, 0].numpy() ** 3, rtol=1e-6)


@pytest.mark.parametrize("method", [GradientXInput(), Saliency()])
def test_the_score_is_the_logit_not_the_probability(method, formula):
    # With a huge margin the gradient of the softmax vanishes, that of the logit does not.
    network = formula(lambda x: x.flatten(1).sum(dim=1, keepdim=True) * torch.tensor([100, -100]))
    found = explain(network, torch.ones(1, 1, 3, 3), method, targets=[0, 1])["attribution"]
    assert np.abs(found).tolist() == np.full((1, 2, 3, 3), 100).tolist()
