"""Maps over dropout samples, and the attribution of the mutual information.

Shape suffixes: N objects, T targets, S samples, C channels, H height, W width.
"""

import copy

import captum.attr
import numpy as np
import pytest
import torch
from conformance.methods import MethodConformance
from hypothesis import strategies as st
from torch import nn

from attribution import GradientXInput, IntegratedGradients, MCDropout, Occlusion, explain
from attribution.attribution_uncertainty import AttributionUncertainty
from attribution.dropout_masks import hashed_dropout
from attribution.mutual_information import MutualInformationAttribution
from attribution.randomness import key

MASKS = st.sampled_from(["per_object", "consistent"])
IDS = ["a", "b", "c"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Spare the reference the threads, which cost more than these passes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TestAttributionUncertainty(MethodConformance):
    methods = st.builds(
        AttributionUncertainty,
        samples=st.integers(2, 12),
        masks=MASKS,
        of=st.sampled_from(["gradient_x_input", "saliency"]),
    )


class TestMutualInformationAttribution(MethodConformance):
    methods = st.builds(
        MutualInformationAttribution,
        samples=st.integers(2, 12),
        masks=MASKS,
        multiply=st.sampled_from(["input", "none"]),
    )


@pytest.mark.slow  # every sample walks a path of its own
class TestOfMethodsWithPassesOfTheirOwn(MethodConformance):
    methods = st.builds(
        AttributionUncertainty,
        samples=st.integers(2, 6),
        of=st.sampled_from([IntegratedGradients(3), IntegratedGradients(6), Occlusion(5, 4)]),
    )

    def test_passes_are_as_announced(self):
        """Integrated gradients also pass their baseline, here once per object and sample."""
        for inner, forward, backward in ((Occlusion(5, 4), 5, 0), (IntegratedGradients(6), 8, 12)):
            method = AttributionUncertainty(3, of=inner)
            batch = self._batch(method)
            assert batch.logits_NK.shape == (4, 5)
            method.partial(batch, self.targets(4))
            assert batch.passes.forward == 4 + 4 * 3 * forward
            assert batch.passes.backward == 4 * 3 * backward


class _Functional(nn.Module):
    """A network whose dropout is followed by arithmetic, so that it can't be cut in two."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(2, 3, 3)
        self.channels = nn.Dropout2d(0.25)
        self.elements = nn.Dropout(0.4)
        self.head = nn.Linear(27, 4)

    def forward(self, images):
        hidden = torch.tanh(self.channels(self.body(images))).flatten(1)
        return 3 * self.head(self.elements(hidden))


def chain():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Dropout(0.4), nn.Linear(27, 6),
        nn.Softplus(), nn.Dropout(0.25), nn.Linear(6, 4),
    )  # fmt: skip


@pytest.fixture(scope="module", params=[chain, _Functional])
def network(request):
    torch.manual_seed(3)
    return request.param().double().eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def explained(network, images, method, **options):
    options = {"ids": IDS, "seed": 9, "precision": "float64", "micro_batch": 4, **options}
    return explain(network, images, method, **options)


def keys(n, samples, masks="per_object"):
    whose = (9, IDS[n]) if masks == "per_object" else (9,)
    return [key(*whose, "mc_dropout", sample) for sample in range(samples)]


# Maps over samples.

PEERS = {
    "gradient_x_input": captum.attr.InputXGradient,
    "saliency": captum.attr.Saliency,
    "integrated_gradients": captum.attr.IntegratedGradients,
}


def peer_map(name, network, image_CHW, target):
    """Captum's map of one image, summed over channels."""
    options = {"n_steps": 7} if name == "integrated_gradients" else {}
    row = image_CHW[None].clone().requires_grad_()
    return PEERS[name](network).attribute(row, target=target, **options)[0].sum(dim=0).detach()


@pytest.mark.parametrize("masks", ["per_object", "consistent"])
@pytest.mark.parametrize("name", PEERS)
def test_moments_are_those_of_captums_maps_of_the_sub_networks(name, masks, network, images):
    method = AttributionUncertainty(6, masks, of=name, steps=7)
    targets = np.array([[0, 3], [1, 1], [2, 0]])
    found = explained(network, images, method, targets=targets)
    for n, classes in enumerate(targets):
        for t, target in enumerate(classes):
            maps = []
            for k in keys(n, 6, masks):
                with hashed_dropout(network, [k]):
                    maps.append(peer_map(name, network, images[n], int(target)))
            map_SHW = torch.stack(maps).numpy()
            np.testing.assert_allclose(found["attribution"][n, t], map_SHW.mean(axis=0), atol=1e-12)
            np.testing.assert_allclose(
                found["attribution_std"][n, t], map_SHW.std(axis=0), atol=1e-8
            )
    assert found["attribution_std"].max() > 1e-3


def test_occlusion_too(network, images):
    inner = Occlusion(2, 1)
    found = explained(network, images, AttributionUncertainty(4, of=inner), targets=2)
    for n in range(3):
        maps = []
        for k in keys(n, 4):
            with hashed_dropout(network, [k]):
                grid = explained(network, images[n : n + 1], inner, targets=2, ids=["x"])["grid"]
            maps.append(Occlusion.expand(grid, (5, 5), 2, 1)[0, 0])
        np.testing.assert_allclose(found["attribution"][n, 0], np.mean(maps, axis=0), atol=1e-12)
        np.testing.assert_allclose(found["attribution_std"][n, 0], np.std(maps, axis=0), atol=1e-8)


def test_without_dropout_it_is_captums_map_without_spread(network, images):
    network = copy.deepcopy(network)
    for layer in network.modules():
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            layer.p = 1e-9  # active, and drops one value in 10^9
    for name in PEERS:
        found = explained(network, images, AttributionUncertainty(3, of=name, steps=7), targets=1)
        expected = torch.stack([peer_map(name, network, image, 1) for image in images])
        np.testing.assert_allclose(found["attribution"][:, 0], expected, atol=1e-8)
        assert found["attribution_std"].max() < 1e-7


PIXELS = 40


def dropped_pixels(p):
    """The linear network w . dropout_p(x), its weights and an image."""
    generator = torch.Generator().manual_seed(4)
    w, x = torch.randn(2, PIXELS, generator=generator, dtype=torch.float64)
    network = nn.Sequential(nn.Flatten(), nn.Dropout(p), nn.Linear(PIXELS, 1, bias=False)).double()
    with torch.no_grad():
        network[2].weight.copy_(w[None])
    return network, w.numpy(), x.reshape(1, 1, 5, 8)


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_a_linear_network_has_the_moments_of_its_masks(p):
    network, w, image = dropped_pixels(p)
    samples = 2000
    method = AttributionUncertainty(samples)
    found = explain(network, image, method, targets=0, precision="float64", micro_batch=64)
    expected = w * image.flatten().numpy()
    spread = np.abs(expected) * np.sqrt(p / (1 - p))
    errors = np.abs(found["attribution"].ravel() - expected)
    assert (errors < 4.5 * spread / np.sqrt(samples)).all()
    np.testing.assert_allclose(found["attribution_std"].ravel(), spread, rtol=0.1)


def test_the_error_falls_with_the_root_of_the_samples():
    network, w, image = dropped_pixels(0.5)
    stack = image.expand(30, -1, -1, -1)
    expected = w * image.flatten().numpy()
    for samples in (8, 32, 128):
        method = AttributionUncertainty(samples)
        found = explain(network, stack, method, targets=0, precision="float64", micro_batch=32)
        errors = found["attribution"].reshape(30, -1) - expected
        relative = np.sqrt(np.mean((errors / expected) ** 2))
        assert relative == pytest.approx(1 / np.sqrt(samples), rel=0.15)


def test_passes_are_as_long_as_the_batch_allows(network, images):
    rows = []
    handle = network.register_forward_hook(
        lambda _network, _inputs, output: rows.append(len(output))
    )
    try:
        layout = TestAttributionUncertainty()._layout()
        for inner, expected in (
            # Six samples go through together; paths of seven nodes sample by sample.
            (GradientXInput(), [4, 2]),
            (IntegratedGradients(7), [1, 4, 3, 1] * 6),
        ):
            method = AttributionUncertainty(6, of=inner)
            assert method.passes(layout)[0] == 6 * (1 + inner.passes(layout)[0])
            explained(network, images[:1], method, targets=0, ids=IDS[:1])
            assert sorted(rows[-len(expected) :]) == sorted(expected)
    finally:
        handle.remove()


def test_dropout_can_be_injected(images):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 4)).double()
    built = nn.Sequential(*plain[:3], nn.Dropout(0.3), plain[3])
    for kind in (AttributionUncertainty, MutualInformationAttribution):
        one = explained(plain, images, kind(5, inject=0.3))
        other = explained(built, images, kind(5))
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name])
            assert np.abs(array).max() > 1e-4


def test_arrays_tell_the_inner_method_and_the_samples(network):
    method = AttributionUncertainty(5, "consistent", of="integrated_gradients", steps=9)
    layout = TestAttributionUncertainty()._layout()
    for spec in method.arrays(layout):
        wanted = {"samples": 5, "masks": "consistent", "of": "integrated_gradients", "steps": 9}
        assert wanted.items() <= dict(spec.attributes).items()
        assert spec.units == "logit"
        assert "Sundararajan 2017" in spec.convention


@pytest.mark.parametrize("kind", [AttributionUncertainty, MutualInformationAttribution])
def test_a_network_without_dropout_is_refused_with_the_cure(kind):
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"no dropout layer with p > 0.*set inject, for example"):
        explain(network, torch.zeros(1, 1, 2, 2), kind(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AttributionUncertainty(1), "samples is 1; a spread needs 2"),
        (lambda: AttributionUncertainty(of="occlusion"), "of is 'occlusion'; choose one of gradie"),
        (lambda: AttributionUncertainty(steps=1), "steps is 1; the path needs 2 nodes or more"),
        (lambda: MutualInformationAttribution(multiply="x"), "multiply is 'x'; choose input or no"),
    ],
)
def test_parameters_without_meaning_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_method_without_a_map_is_refused(network, images):
    with pytest.raises(ValueError, match="of: mc_dropout makes no map per pixel; choose one that"):
        explain(network, images, AttributionUncertainty(2, of=MCDropout(2)))


# The mutual information.


def information(network, image_CHW, masks):
    """Mutual information of one image, differentiable."""
    with hashed_dropout(network, masks):
        p_SK = torch.softmax(network(image_CHW.expand(len(masks), -1, -1, -1)), dim=1)
    mean_K = p_SK.mean(dim=0)
    return -(mean_K * mean_K.log()).sum() + (p_SK * p_SK.log()).sum(dim=1).mean()


@pytest.mark.parametrize("masks", ["per_object", "consistent"])
@pytest.mark.parametrize("multiply", ["none", "input"])
def test_the_map_is_autograds_gradient_of_the_mutual_information(masks, multiply, network, images):
    method = MutualInformationAttribution(11, masks, multiply=multiply)
    found = explained(network, images, method, channels="keep")["attribution"]
    for n in range(3):
        image = images[n].clone().requires_grad_()
        value = information(network, image, keys(n, 11, masks))
        (gradient,) = torch.autograd.grad(value, image)
        expected = gradient * images[n] if multiply == "input" else gradient
        np.testing.assert_allclose(found[n, 0], expected, rtol=1e-9, atol=1e-15)
        assert np.abs(found[n]).max() > 1e-4


def test_it_explains_the_mutual_information_of_mc_dropout(network, images):
    """Central differences of the stored number give the stored map."""
    gradient = explained(network, images, MutualInformationAttribution(7, multiply="none"))
    step = torch.zeros_like(images)
    step[:, :, 2, 3] = 1e-5
    above, below = (
        explained(network, images + sign * step, MCDropout(7))["mutual_information"]
        for sign in (1, -1)
    )
    slope = (above - below) / 2e-5
    np.testing.assert_allclose(gradient["attribution"][:, 0, 2, 3], slope, rtol=1e-5)


def test_two_opposed_sub_networks_by_hand():
    """One weight that is kept or dropped: p is sigmoid(2 w x) or 1/2 in equal shares."""
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(1, 2, bias=False)).double()
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[0.7], [0.0]], dtype=torch.float64))
    kept = [
        seed
        for seed in range(20)
        if _keeps(network, key(seed, "0", "mc_dropout", 0))
        != _keeps(network, key(seed, "0", "mc_dropout", 1))
    ]
    x = 0.8
    found = explain(
        network, torch.full((1, 1, 1, 1), x, dtype=torch.float64),
        MutualInformationAttribution(2, multiply="none"), seed=kept[0], precision="float64",
    )  # fmt: skip
    p = 1 / (1 + np.exp(-1.4 * x))
    m = (p + 0.5) / 2
    # dI/dx = 1/2 (logit p - logit m) dp/dx, with dp/dx = 1.4 p (1 - p)
    expected = 0.5 * (np.log(p / (1 - p)) - np.log(m / (1 - m))) * 1.4 * p * (1 - p)
    assert found["attribution"].item() == pytest.approx(expected, rel=1e-12)


def _keeps(network, k):
    with torch.no_grad(), hashed_dropout(network, [k]):
        return bool(network(torch.ones(1, 1, 1, 1, dtype=torch.float64))[0, 0] != 0)


def test_certain_predictions_have_no_gradient_and_no_nan():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    with torch.no_grad():
        network[2].bias.copy_(torch.tensor([0.0, 2000.0, -2000.0]))
    found = explain(
        network, torch.randn(2, 1, 2, 2), MutualInformationAttribution(5), precision="float64"
    )
    np.testing.assert_array_equal(found["attribution"], 0)


def test_every_target_has_the_same_map(network, images):
    found = explained(network, images, MutualInformationAttribution(4), targets=[0, 2])
    assert found["attribution"].shape == (3, 2, 5, 5)
    np.testing.assert_array_equal(found["attribution"][:, 0], found["attribution"][:, 1])


def test_a_plain_method_in_the_same_batch_sees_no_dropout(network, images):
    """Hooks of the samples are gone when the samples are."""
    before = explained(network, images, GradientXInput())
    explained(network, images, AttributionUncertainty(3))
    after = explained(network, images, GradientXInput())
    np.testing.assert_array_equal(before["attribution"], after["attribution"])
