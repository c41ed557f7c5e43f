"""Measures of quality: where the answer is known, against Captum, and as methods."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.metrics import infidelity, sensitivity_max
from conformance.methods import MethodConformance, convolutional_network
from hypothesis import strategies as st
from scipy.stats import spearmanr

from attribution import (
    GradientXInput,
    IntegratedGradients,
    Occlusion,
    Prediction,
    Saliency,
    explain,
)
from attribution.batch import reproducible
from attribution.quality import Deletion, Infidelity, Insertion, MaxSensitivity, ModelRandomisation
from attribution.quality.randomisation import randomised, rank_correlation

JUDGED = (GradientXInput(), IntegratedGradients(3, "midpoint"))


class QualityConformance(MethodConformance):
    @pytest.mark.parametrize("of", [JUDGED, JUDGED[:1]])
    def test_passes_are_as_announced(self, of):
        # The judged maps are shared with the methods that make them.
        method = replace(self.example, of=of)
        batch = self._batch(method)
        targets = self.targets(len(batch))
        with reproducible():
            for judged in of:
                batch.once((judged, targets.tobytes()), lambda m=judged: m.partial(batch, targets))
            forward, backward = batch.passes.forward, batch.passes.backward
            method.partial(batch, targets)
        announced = method.passes(self._layout())
        spent = batch.passes.forward - forward, batch.passes.backward - backward
        # One baseline may serve a whole batch of integrated gradients.
        extra = spent[0] - announced[0] * len(batch)
        assert 0 <= extra <= method.parts(self.image_shape)
        assert spent[1] == announced[1] * len(batch)


class TestDeletion(QualityConformance):
    methods = st.builds(Deletion, of=st.just(JUDGED), steps=st.integers(1, 9))
    example = Deletion(steps=3)


class TestInsertion(QualityConformance):
    methods = st.builds(Insertion, of=st.just(JUDGED), output=st.sampled_from(["logit"]))
    example = Insertion(steps=3)


class TestInfidelity(QualityConformance):
    methods = st.builds(
        Infidelity, of=st.just(JUDGED), samples=st.integers(1, 9), window=st.just(3)
    )
    example = Infidelity(samples=5, window=2)


class TestMaxSensitivity(QualityConformance):
    methods = st.builds(MaxSensitivity, of=st.just(JUDGED[:1]), samples=st.integers(1, 6))
    example = MaxSensitivity(samples=3)


class TestModelRandomisation(QualityConformance):
    methods = st.builds(ModelRandomisation, of=st.just(JUDGED[:1]), stages=st.integers(1, 4))
    example = ModelRandomisation(stages=2)


def test_deletion_of_a_linear_network_removes_the_largest_terms_first(linear, some_images):
    network, weights = linear
    method = Deletion(of=(GradientXInput(),), steps=30, output="logit")
    found = explain(network, some_images, method, targets=1, precision="float64")
    terms = (weights[1] * some_images).sum(dim=1).flatten(1).numpy()
    ordered = -np.sort(-terms, axis=1)
    bias = network[1].bias[1].item()
    kept = [ordered[:, count:].sum(axis=1) + bias for count in range(31)]
    np.testing.assert_allclose(found["curve"][:, 0, 0], np.stack(kept, axis=1), rtol=1e-12)
    area = np.trapezoid(np.stack(kept, axis=1), dx=1 / 30, axis=1)
    np.testing.assert_allclose(found["area"][:, 0, 0], area, rtol=1e-12)


def test_insertion_is_deletion_backwards_for_the_negated_order(linear, some_images):
    # What insertion has after k pixels, deletion by ascending order has before them.
    network, weights = linear
    options = {"of": (GradientXInput(),), "steps": 6, "output": "logit"}
    found = explain(network, some_images, Insertion(**options), targets=1, precision="float64")
    curve = found["curve"][:, 0, 0]
    terms = (weights[1] * some_images).sum(dim=1).flatten(1).numpy()
    ordered = -np.sort(-terms, axis=1)
    come = [ordered[:, : 5 * k].sum(axis=1) + network[1].bias[1].item() for k in range(7)]
    np.testing.assert_allclose(curve, np.stack(come, axis=1), rtol=1e-12)


def test_exact_contributions_have_no_infidelity(linear, some_images):
    network, _ = linear
    judged = (GradientXInput(), Saliency())
    method = Infidelity(of=judged, samples=40, window=2)
    found = explain(network, some_images, method, targets="all", precision="float64")
    np.testing.assert_allclose(found["infidelity"][..., 0], 0, atol=1e-24)
    assert (found["infidelity"][..., 1] > 1e-3).all()
    assert (found["infidelity_scaled"] <= found["infidelity"] + 1e-12).all()


def test_infidelity_equals_captums_on_the_same_patches():
    network, image = convolutional_network(2, 5).double().eval(), torch.randn(1, 2, 9, 8).double()
    judged = IntegratedGradients(5, "midpoint")
    method = Infidelity(of=(judged,), samples=12, window=3)
    found = explain(network, image, method, targets=2, precision="float64", micro_batch=1)
    hidden = torch.from_numpy(_patches(method, image))
    attribution = explain(network, image, judged, targets=2, precision="float64", channels="keep")
    peer = infidelity(
        lambda x: network(x),
        # Captum takes the removed part and the image without it; contributions are multiplied in.
        lambda x: (hidden[:, None].expand(-1, 2, -1, -1).double(), x * ~hidden[:, None]),
        image,
        torch.from_numpy(attribution["attribution"][:, 0]),
        target=2,
        n_perturb_samples=12,
        max_examples_per_batch=12,
    )
    np.testing.assert_allclose(found["infidelity"].item(), peer.item(), rtol=1e-6)


def _patches(method, image):
    from attribution.batch import Batch

    batch = Batch(torch.nn.Identity(), image, np.ones(1, bool), ["0"], seed=0)
    return method._patches(batch, 0, range(method.samples))


def test_max_sensitivity_equals_captums_on_the_same_noise():
    network, image = convolutional_network(2, 5).double().eval(), torch.randn(1, 2, 9, 8).double()
    method = MaxSensitivity(of=(Saliency(),), samples=6, radius=0.05)
    found = explain(network, image, method, targets=2, precision="float64", micro_batch=1)
    noise = torch.cat(_noise(method, image))
    assert noise.abs().max() <= 0.05
    assert noise.abs().max() > 0.04

    def maps(x):
        x = x[0] if isinstance(x, tuple) else x
        options = {"targets": 2, "precision": "float64", "micro_batch": 1}
        found = explain(network, x, Saliency(), **options)["attribution"]
        return (torch.from_numpy(found),)  # Captum would iterate over the rows of a bare tensor

    def perturbed(x):
        x = x[0] if isinstance(x, tuple) else x
        assert x.shape == noise.shape
        return x + noise

    peer = sensitivity_max(
        maps, image, perturb_func=perturbed, n_perturb_samples=6, max_examples_per_batch=6
    )
    np.testing.assert_allclose(found["max_sensitivity"].item(), peer.item(), rtol=1e-9)


def _noise(method, image):
    from attribution.batch import Batch

    batch = Batch(torch.nn.Identity(), image, np.ones(1, bool), ["0"], seed=0)
    return [method._noise(batch, sample) for sample in range(method.samples)]


def test_a_gradient_that_does_not_depend_on_the_image_is_not_sensitive(linear, some_images):
    network, _ = linear
    found = explain(network, some_images, MaxSensitivity(of=(Saliency(),)), precision="float64")
    np.testing.assert_allclose(found["max_sensitivity"], 0, atol=1e-12)


def test_rank_correlation_is_spearmans_with_ties():
    random = np.random.default_rng(0)
    for _ in range(20):
        left, right = random.integers(0, 6, (2, 5, 7)).astype(float)
        expected = spearmanr(left.ravel(), right.ravel()).statistic
        assert rank_correlation(left, right) == pytest.approx(expected, abs=1e-12)
    assert rank_correlation(np.ones((3, 3)), left[:3, :3]) == 0


def test_randomisation_cascades_from_the_output_and_repeats():
    network = convolutional_network(2, 5).eval()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    half, full = randomised(network, 0.5, 7), randomised(network, 1.0, 7)
    changed = [
        {name for name, v in other.state_dict().items() if not torch.equal(v, weights[name])}
        for other in (half, full)
    ]
    # Four layers have weights: convolution, batch norm, convolution, linear.
    assert changed[0] == {"5.weight", "5.bias", "10.weight", "10.bias"}
    assert changed[1] >= changed[0] | {"0.weight", "0.bias", "1.weight"}
    again = randomised(network, 1.0, 7).state_dict()
    assert all(torch.equal(again[name], value) for name, value in full.state_dict().items())
    assert all(torch.equal(network.state_dict()[name], value) for name, value in weights.items())


def test_a_map_of_the_image_alone_survives_randomisation():
    # What ignores the network is unmasked: its map never changes.
    class ImageOnly(GradientXInput):
        def _attribution(self, gradient, image):
            return np.broadcast_to(np.abs(image), gradient.shape).copy()

    judged = (ImageOnly(), Saliency())
    method = ModelRandomisation(of=judged, stages=3)
    images = torch.randn(3, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    found = explain(convolutional_network(2, 5), images, method, targets=1)["rank_correlation"]
    np.testing.assert_allclose(found[..., 0, :], 1, rtol=1e-12)
    assert (np.abs(found[..., 1, :]) < 0.9).all()


def test_names_are_bound_to_the_methods_of_the_job():
    methods = {m.name: m for m in (Prediction(), Saliency(), Occlusion(4, 2), Deletion())}
    methods.pop("prediction")
    assert [m.name for m in Deletion().bound(methods).judged] == ["saliency", "occlusion"]
    assert Deletion(of=("occlusion",)).bound(methods).judged == (Occlusion(4, 2),)
    assert Deletion(of=("occlusion",)).bound(methods).coordinates == {"judged": ("occlusion",)}
    with pytest.raises(
        ValueError, match=r"'grad_cam' is no method of this job.*saliency, occlusion"
    ):
        Deletion(of=("grad_cam",)).bound(methods)
    with pytest.raises(ValueError, match="nothing to judge; add one"):
        Deletion().bound({"deletion": Deletion()})


def test_bad_parameters_are_refused():
    network = convolutional_network(2, 5)
    with pytest.raises(ValueError, match="steps is 0"):
        Deletion(steps=0)
    with pytest.raises(ValueError, match="radius 0"):
        MaxSensitivity(radius=0)
    with pytest.raises(ValueError, match="stages is 9, the network has 4 layers"):
        explain(network, torch.zeros(1, 2, 9, 8), ModelRandomisation(of=JUDGED, stages=9))
    with pytest.raises(ValueError, match="window 10 is larger than the image, 9x8"):
        explain(network, torch.zeros(1, 2, 9, 8), Infidelity(of=JUDGED, window=10))
