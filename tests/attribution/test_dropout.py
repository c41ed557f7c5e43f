import itertools

import numpy as np
import pytest
import scipy.stats
import torch
from conformance.methods import MethodConformance
from hypothesis import strategies as st
from torch import nn

from attribution import MCDropout, explain
from attribution.dropout_masks import hashed_dropout
from attribution.randomness import key
from attribution.sampled_predictions import entropy


class TestConformance(MethodConformance):
    methods = st.builds(
        MCDropout,
        samples=st.integers(2, 12),
        masks=st.sampled_from(["per_object", "consistent"]),
        inject=st.sampled_from([0.3, 0.9]),
        outputs=st.sampled_from(["classification", "vote_fractions", "regression"]),
        answers=st.sampled_from(["exclusive", "independent"]),
    )

    def network(self):
        network = super().network()
        return nn.Sequential(*(layer for layer in network if "Dropout" not in type(layer).__name__))


class _Table(nn.Module):
    """Answers the rows of a pass with the rows of a table, in order."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.as_tensor(logits, dtype=torch.float64)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images):
        self.dropout(images)
        return self.logits[: len(images)]


def statistics_of(probabilities):
    """Feed the samples' probabilities (T, K) to the method as those of one object."""
    return statistics_of_outputs(torch.tensor(probabilities, dtype=torch.float64).log())


def statistics_of_outputs(table, **parameters):
    """Feed the samples' outputs (T, K) to the method as those of one object."""
    samples = len(table)
    arrays = explain(
        _Table(table), torch.zeros(1, 1, 2, 2), MCDropout(samples, **parameters),
        precision="float64", micro_batch=samples,
    )  # fmt: skip
    return {name: array[0] for name, array in arrays.items()}


def test_the_oracle_of_two_samples_that_disagree():
    found = statistics_of([[0.9, 0.1], [0.1, 0.9]])
    assert found["mutual_information"] == pytest.approx(0.36806421, abs=5e-9)
    assert found["predictive_entropy"] == pytest.approx(np.log(2), abs=1e-12)
    np.testing.assert_allclose(found["probability_mean"], [0.5, 0.5], atol=1e-12)
    np.testing.assert_allclose(found["probability_std"], [0.4, 0.4], atol=1e-12)


def test_opposite_certainties_carry_ln_2_and_0_log_0_is_0():
    found = statistics_of([[1.0, 0.0], [0.0, 1.0]])
    assert found["mutual_information"] == pytest.approx(np.log(2), abs=1e-12)
    assert found["expected_entropy"] == 0


def test_samples_that_agree_carry_no_information():
    found = statistics_of([[0.2, 0.3, 0.5]] * 5)
    assert 0 <= found["mutual_information"] < 1e-12
    assert found["probability_std"].max() < 1e-7
    assert found["predictive_entropy"] == pytest.approx(found["expected_entropy"], abs=1e-12)


@pytest.mark.parametrize(
    ("probabilities", "ratio"),
    [
        ([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]], 0.25),
        ([[0.2, 0.3, 0.5]] * 3, 0.0),
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 2 / 3),
        # A sample that is torn votes for the first of its classes.
        ([[0.5, 0.5], [0.1, 0.9]], 0.5),
        ([[0.5, 0.5], [0.9, 0.1]], 0.0),
    ],
)
def test_the_variation_ratio_is_the_share_outside_the_modal_class(probabilities, ratio):
    assert statistics_of(probabilities)["variation_ratio"] == pytest.approx(ratio, abs=1e-15)


# Vote fractions: every sample is a binomial, their mean a mixture.


def test_one_volunteer_is_one_draw_of_the_class():
    found = statistics_of_outputs(
        np.log([[0.9, 0.1], [0.1, 0.9]]), outputs="vote_fractions", volunteers=1
    )
    np.testing.assert_allclose(found["mutual_information"], 0.36806421, atol=5e-9)
    np.testing.assert_allclose(found["predictive_entropy"], np.log(2), atol=1e-12)
    np.testing.assert_allclose(found["vote_fraction_mean"], 0.5)
    np.testing.assert_allclose(found["vote_fraction_std"], 0.4)


def test_opposite_certainties_of_any_number_of_volunteers_carry_ln_2():
    # Every volunteer says no, or every one says yes.
    found = statistics_of_outputs(
        [[-800.0], [800.0]], outputs="vote_fractions", answers="independent", volunteers=40
    )
    assert found["mutual_information"] == pytest.approx(np.log(2), abs=1e-12)
    assert found["expected_entropy"] == 0


@pytest.mark.parametrize("volunteers", [1, 5, 40, 1000])
@pytest.mark.parametrize("answers", ["exclusive", "independent"])
def test_scipy_agrees_on_mixtures_of_binomials(answers, volunteers):
    table = np.random.default_rng(0).normal(size=(6, 3)) * 2
    found = statistics_of_outputs(
        table, outputs="vote_fractions", answers=answers, volunteers=volunteers
    )
    odds = np.exp(table)
    rho = odds / (odds.sum(axis=1, keepdims=True) if answers == "exclusive" else 1 + odds)
    votes = scipy.stats.binom.pmf(np.arange(volunteers + 1)[:, None, None], volunteers, rho)
    predictive = scipy.stats.entropy(votes.mean(axis=1))
    expected = scipy.stats.entropy(votes).mean(axis=0)
    np.testing.assert_allclose(found["vote_fraction_mean"], rho.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["vote_fraction_std"], rho.std(axis=0), rtol=1e-7)
    np.testing.assert_allclose(found["predictive_entropy"], predictive, rtol=1e-9)
    np.testing.assert_allclose(found["expected_entropy"], expected, rtol=1e-9)
    np.testing.assert_allclose(found["mutual_information"], predictive - expected, atol=1e-9)


# Quantities.


def test_quantities_have_a_mean_a_spread_and_the_variance_of_the_mean():
    found = statistics_of_outputs([[1.0, 7.0], [3.0, 7.0]], outputs="regression")
    np.testing.assert_allclose(found["output_mean"], [2, 7])
    np.testing.assert_allclose(found["output_std"], [1, 0])
    # The unbiased variance, 2, of one sample, over 2 samples.
    np.testing.assert_allclose(found["output_mean_variance"], [1, 0])
    assert list(found) == ["output_mean", "output_std", "output_mean_variance"]


def test_small_spreads_of_large_quantities_survive():
    offsets = np.array([0.0, 3e-4, -1e-4, 2e-4])
    found = statistics_of_outputs(1e8 + offsets[:, None], outputs="regression")
    assert found["output_std"] == pytest.approx(offsets.std(), rel=1e-3)


def test_one_output_is_no_class():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 1))
    for parameters in ({}, {"outputs": "vote_fractions"}):
        with pytest.raises(ValueError, match="the network has one output, whose softmax is always"):
            explain(network, torch.zeros(1, 1, 2, 2), MCDropout(2, **parameters))
    for parameters in (
        {"outputs": "vote_fractions", "answers": "independent"},
        {"outputs": "regression"},
    ):
        explain(network, torch.zeros(1, 1, 2, 2), MCDropout(2, **parameters))


def test_entropy_of_certainty_is_0_and_of_evenness_ln_k():
    found = entropy(np.array([[1.0, 0, 0, 0], [0.25] * 4]))
    assert found[0] == 0
    assert not np.signbit(found[0])
    assert found[1] == pytest.approx(np.log(4))


@pytest.fixture(scope="module")
def classifier():
    """A network with both kinds of dropout, and six images."""
    generator = torch.Generator().manual_seed(2)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.25), nn.Flatten(),
        nn.Linear(72, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4),
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) / value.shape[-1] ** 0.5)
    return network, torch.randn(6, 1, 5, 5, generator=generator, dtype=torch.float64)


def sampled(network, image, keys):
    """Probabilities (T, K) of one image under the masks of some keys."""
    with torch.inference_mode(), hashed_dropout(network, keys):
        return torch.softmax(network(image.expand(len(keys), -1, -1, -1)), dim=1).numpy()


@pytest.mark.parametrize("masks", ["per_object", "consistent"])
def test_statistics_are_those_of_the_samples(masks, classifier):
    network, images = classifier
    ids = ["a", "b", "c", "d", "e", "f"]
    found = explain(
        network, images, MCDropout(30, masks), ids=ids, seed=9, precision="float64", micro_batch=4
    )
    for n, name in enumerate(ids):
        whose = (9, name) if masks == "per_object" else (9,)
        keys = [key(*whose, "mc_dropout", sample) for sample in range(30)]
        p_TK = sampled(network, images[n], keys)
        entropy_T = [-sum(p * np.log(p) for p in row) for row in p_TK]
        mean_K = p_TK.mean(axis=0)
        total = -(mean_K * np.log(mean_K)).sum()
        expected = {
            "probability_mean": mean_K,
            "probability_std": p_TK.std(axis=0),
            "predictive_entropy": total,
            "expected_entropy": np.mean(entropy_T),
            "mutual_information": total - np.mean(entropy_T),
            "variation_ratio": 1 - np.bincount(p_TK.argmax(axis=1)).max() / 30,
        }
        assert set(found) == set(expected)
        for quantity, value in expected.items():
            np.testing.assert_allclose(found[quantity][n], value, rtol=1e-9, atol=1e-9)
        assert found["mutual_information"][n] > 1e-3


@pytest.mark.slow  # the peer imports a training framework
@pytest.mark.filterwarnings("ignore:Metric `VariationRatio` will save all predictions")
def test_torch_uncertainty_agrees(classifier):
    metrics = pytest.importorskip("torch_uncertainty.metrics")
    network, images = classifier
    found = explain(network, images, MCDropout(40, "consistent"), precision="float64")
    keys = [key(0, "mc_dropout", sample) for sample in range(40)]
    p_NTK = torch.tensor(np.stack([sampled(network, image, keys) for image in images]))
    information = metrics.MutualInformation(reduction="none")(p_NTK)
    np.testing.assert_allclose(found["mutual_information"], information, rtol=1e-6)
    total = metrics.Entropy(reduction="none")(p_NTK.mean(dim=1))
    np.testing.assert_allclose(found["predictive_entropy"], total, rtol=1e-6)
    np.testing.assert_allclose(found["expected_entropy"], total - information, rtol=1e-6)
    # The peer's modal class is that of the mean prediction, ours the one that most samples choose.
    same = p_NTK.mean(dim=1).argmax(dim=1) == p_NTK.argmax(dim=2).mode(dim=1).values
    assert same.any()
    ratio = metrics.VariationRatio(reduction="none", probabilistic=False)(p_NTK.transpose(0, 1))
    np.testing.assert_allclose(found["variation_ratio"][same], ratio[same], atol=1e-6)


# A linear network w . dropout_p(x): mean w . x, variance p / (1 - p) sum w^2 x^2.

PIXELS = 50


def linear_samples(p, samples, objects=1):
    """Outputs (objects, samples) of a linear network behind dropout; expected mean, variance."""
    generator = torch.Generator().manual_seed(4)
    weights, image = torch.randn(2, PIXELS, generator=generator, dtype=torch.float64)
    network = nn.Sequential(nn.Dropout(p), nn.Linear(PIXELS, 1, bias=False)).double().eval()
    with torch.no_grad():
        network[1].weight.copy_(weights[None])
    keys = [key(0, str(n), sample) for n in range(objects) for sample in range(samples)]
    with torch.inference_mode(), hashed_dropout(network, keys):
        outputs = network(image.expand(len(keys), -1)).reshape(objects, samples).numpy()
    product = (weights * image).numpy()
    return outputs, product.sum(), p / (1 - p) * np.square(product).sum()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_mean_and_variance_of_a_linear_network(p):
    samples = 20_000
    outputs, mean, variance = linear_samples(p, samples)
    assert abs(outputs.mean() - mean) < 4 * np.sqrt(variance / samples)
    fourth = np.mean((outputs - mean) ** 4)
    assert abs(outputs.var() - variance) < 4 * np.sqrt((fourth - variance**2) / samples)


def test_the_error_falls_with_the_root_of_the_samples():
    outputs, mean, variance = linear_samples(0.5, samples=1024, objects=60)
    for samples in (16, 64, 256, 1024):
        error = np.sqrt(np.mean((outputs[:, :samples].mean(axis=1) - mean) ** 2))
        assert error == pytest.approx(np.sqrt(variance / samples), rel=0.35)


# Masks.


def masks(modules, keys, shape, dtype=torch.float32):
    """Return which elements each of the layers keeps, (layer, key, *shape)."""
    network = nn.ModuleList(modules).eval()
    with hashed_dropout(network, keys):
        return np.stack(
            [(module(torch.ones(len(keys), *shape, dtype=dtype)) > 0).numpy() for module in network]
        )


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_the_keep_rate_is_1_minus_p_and_kept_values_are_scaled(p):
    keys = [key(n) for n in range(100)]
    layer = nn.Dropout(p).eval()
    with hashed_dropout(layer, keys):
        output = layer(torch.ones(100, 1000))
    kept = output > 0
    assert abs(kept.double().mean() - (1 - p)) < 5 * np.sqrt(p * (1 - p) / 100_000)
    np.testing.assert_allclose(output[kept].numpy(), 1 / (1 - p), rtol=1e-6)


def test_nothing_is_kept_at_p_1_and_everything_outside_the_context():
    layer = nn.Dropout(1.0).eval()
    with hashed_dropout(layer, [1, 2]):
        assert not layer(torch.ones(2, 9)).any()
    assert layer(torch.ones(2, 9)).all()


def test_masks_of_layers_samples_and_objects_are_independent():
    keys = [key(0, galaxy, "mc_dropout", sample) for galaxy in "ab" for sample in range(3)]
    size = 40_000
    kept = masks([nn.Dropout(0.3), nn.Dropout(0.3)], keys, (size,)).reshape(-1, size)
    for one, other in itertools.combinations(kept, 2):
        counts = np.array([(one & other).sum(), (one & ~other).sum(), (~one & other).sum()])
        counts = np.append(counts, size - counts.sum())
        expected = size * np.array([0.49, 0.21, 0.21, 0.09])
        # 3 degrees of freedom: above 30 once in 10^6 pairs.
        assert ((counts - expected) ** 2 / expected).sum() < 30


def test_neighbouring_elements_are_independent():
    kept = masks([nn.Dropout(0.5)], [key(n) for n in range(20)], (64, 64))[0].astype(float)
    for one, other in (
        (kept[:, 1:], kept[:, :-1]),
        (kept[..., 1:], kept[..., :-1]),
        (kept[1:], kept[:-1]),
    ):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(one.size)


def test_masks_do_not_depend_on_precision():
    keys = [key(n) for n in range(5)]
    single = masks([nn.Dropout(0.4)], keys, (3, 8, 8))
    double = masks([nn.Dropout(0.4)], keys, (3, 8, 8), torch.float64)
    np.testing.assert_array_equal(single, double)


@pytest.mark.parametrize("layer", [nn.Dropout1d, nn.Dropout2d, nn.Dropout3d])
def test_channel_dropout_drops_whole_channels(layer):
    shape = (200, *[5] * int(layer.__name__[-2]))
    (kept,) = masks([layer(0.5)], [key(n) for n in range(20)], shape)
    kept = kept.reshape(20, 200, -1)
    assert (kept.all(axis=2) | ~kept.any(axis=2)).all()
    assert abs(kept[:, :, 0].mean() - 0.5) < 5 * 0.5 / np.sqrt(4000)


def test_a_single_key_serves_every_row_of_every_pass():
    network = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5)).eval()
    with hashed_dropout(network, [5]):
        first, second = network(torch.ones(3, 200)), network(torch.ones(1, 200))
    np.testing.assert_array_equal(first, second.expand(3, -1))
    with hashed_dropout(network, [5, 6]):
        both = network(torch.ones(2, 200))
    np.testing.assert_array_equal(both[0], second[0])
    assert not torch.equal(both[0], both[1])


def test_a_layer_that_is_used_twice_draws_anew():
    layer = nn.Dropout(0.5).eval()
    with hashed_dropout(nn.Sequential(layer), [1, 2]):
        first, second = layer(torch.ones(2, 500)), layer(torch.ones(2, 500))
    with hashed_dropout(nn.Sequential(layer), [1, 2]):
        again = layer(torch.ones(2, 500))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert 0.2 < ((first > 0) & (second > 0)).double().mean() < 0.3


def test_consistent_masks_are_those_of_every_object_and_per_object_masks_differ(classifier):
    network, images = classifier
    twins = images[:1].repeat(3, 1, 1, 1)
    ids = ["one", "two", "one"]
    same = explain(network, twins, MCDropout(5, "consistent"), ids=ids)["probability_mean"]
    np.testing.assert_array_equal(same, same[[0, 0, 0]])
    own = explain(network, twins, MCDropout(5, "per_object"), ids=ids)["probability_mean"]
    np.testing.assert_array_equal(own[0], own[2])
    assert np.abs(own[0] - own[1]).max() > 1e-3


def test_more_samples_begin_with_the_same_samples(classifier):
    network, images = classifier
    runs = {
        samples: explain(network, images, MCDropout(samples), precision="float64")
        for samples in (2, 3)
    }
    last = [key(0, str(n), "mc_dropout", 2) for n in range(6)]
    third = np.stack([sampled(network, images[n], last[n : n + 1])[0] for n in range(6)])
    np.testing.assert_allclose(
        3 * runs[3]["probability_mean"], 2 * runs[2]["probability_mean"] + third, rtol=1e-9
    )


def test_seeds_draw_different_masks(classifier):
    network, images = classifier
    one, other = (explain(network, images, MCDropout(4), seed=seed) for seed in (1, 2))
    assert (one["probability_mean"] != other["probability_mean"]).all()


def test_only_dropout_is_random_and_no_module_trains(classifier):
    network, images = classifier
    network.train()
    modes = []
    handles = [
        module.register_forward_hook(lambda module, *_: modes.append(module.training))
        for module in network
    ]
    before = network[1].running_mean.clone()
    try:
        explain(network, images, MCDropout(3))
        assert all(module.training for module in network)
    finally:
        network.eval()
        for handle in handles:
            handle.remove()
    assert modes
    assert not any(modes)
    assert torch.equal(network[1].running_mean, before)


@pytest.mark.parametrize("layers", [[], [nn.Dropout(0.0)]])
def test_a_network_without_active_dropout_is_refused(layers):
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(
        ValueError, match=r"no dropout layer with p > 0, so all samples would be.*set inject, for"
    ):
        explain(network, torch.zeros(1, 1, 2, 2), MCDropout(2))


@pytest.mark.parametrize("layer", [nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_dropout_that_would_be_done_wrongly_is_refused(layer):
    network = nn.Sequential(layer(0.5), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=f"^{layer.__name__} is not supported"):
        explain(network, torch.zeros(1, 1, 2, 2), MCDropout(2))


def test_dropout_that_never_runs_is_refused():
    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.auxiliary = nn.Dropout(0.5)
            self.head = nn.Linear(4, 2)

        def forward(self, images):
            return self.head(images.flatten(1))

    with pytest.raises(ValueError, match="none of the network's dropout layers runs when it predi"):
        explain(Aside(), torch.zeros(1, 1, 2, 2), MCDropout(2))


# Injected dropout.


def without_dropout():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).eval()


@pytest.mark.parametrize("masks", ["per_object", "consistent"])
def test_injected_dropout_is_that_of_a_layer_before_the_last(masks):
    plain = without_dropout()
    built = nn.Sequential(*plain[:3], nn.Dropout(0.3), plain[3])
    images = torch.randn(5, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    one = explain(plain, images, MCDropout(9, masks, inject=0.3))
    other = explain(built, images, MCDropout(9, masks))
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])
    assert one["probability_std"].min() > 1e-3


def test_injected_dropout_is_labelled():
    layout = TestConformance()._layout()
    for spec in MCDropout(inject=0.3).arrays(layout):
        assert spec.attributes["inject"] == 0.3
    for spec in MCDropout().arrays(layout):
        assert "inject" not in spec.attributes


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(4, 2)), "inject is 0.2, and the"),
        (nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten()), "the last layer with weights is Conv2d"),
        (nn.Flatten(), "the last layer with weights is none"),
    ],
)
def test_injection_without_a_place_is_refused(network, message):
    with pytest.raises(ValueError, match=message):
        explain(network, torch.zeros(1, 1, 2, 2), MCDropout(2, inject=0.2))


def test_hooks_are_removed_when_the_network_fails():
    layer = nn.Dropout(0.5)
    with pytest.raises(RuntimeError), hashed_dropout(layer, [1, 2]):
        layer(torch.ones(3, 4))
    assert not layer._forward_hooks


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"samples": 1}, "samples is 1; a spread needs 2 samples or more"),
        ({"masks": "shared"}, "masks is 'shared'; choose per_object or consistent"),
        ({"inject": 0.0}, "inject is 0.0; choose a probability between 0 and 1"),
        ({"inject": 1}, "inject is 1; choose a probability between 0 and 1"),
        ({"volunteers": 0}, "volunteers is 0; a vote takes 1 to 1000"),
        ({"outputs": "votes"}, "outputs is 'votes'; choose one of classification, vote_fractions"),
        ({"answers": "both"}, "answers is 'both'; choose one of exclusive, independent"),
    ],
)
def test_parameters_without_meaning_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        MCDropout(**parameters)
