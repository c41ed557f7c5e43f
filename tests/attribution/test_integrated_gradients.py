from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attribution import IntegratedGradients, Layout, explain
from attribution.batch import Needs
from attribution.explain import complete, make_batch
from attribution.fills import canvas
from attribution.quadrature import QuadratureRule, quadrature

RULES = get_args(QuadratureRule)


def row(*pixels):
    """One image of one row of pixels, in one channel."""
    return torch.tensor([[[pixels]]], dtype=torch.float64)


def attribution_of(network, image, **parameters):
    arrays = explain(
        network, image, IntegratedGradients(**parameters), targets=0, precision="float64"
    )
    return arrays["attribution"][0, 0, 0], arrays


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [2, 3, 10, 51])
def test_weights_sum_to_1_and_nodes_lie_on_the_path(rule, steps):
    nodes, weights = quadrature(rule, steps)
    assert len(nodes) == len(weights) == steps
    assert weights.sum() == pytest.approx(1, abs=1e-14)
    assert ((nodes >= 0) & (nodes <= 1)).all()
    assert (np.diff(nodes) > 0).all()


@settings(deadline=None, derandomize=True)
@given(st.integers(2, 20), st.data())
def test_gauss_legendre_is_exact_for_polynomials_of_degree_2n_minus_1(steps, data):
    degree = data.draw(st.integers(0, 2 * steps - 1))
    nodes, weights = quadrature("gauss_legendre", steps)
    assert weights @ nodes**degree == pytest.approx(1 / (degree + 1), rel=1e-12)


def test_nodes_and_weights_are_computed_once_and_stay():
    first, again = quadrature("gauss_legendre", 6), quadrature("gauss_legendre", 6)
    assert first is again
    with pytest.raises(ValueError, match="read-only"):
        first[0][0] = 1.0


def test_gauss_legendre_is_not_exact_beyond():
    nodes, weights = quadrature("gauss_legendre", 2)
    assert abs(weights @ nodes**4 - 1 / 5) > 1e-3


@pytest.mark.parametrize("rule", ["midpoint", "trapezoid"])
def test_symmetric_rules_are_exact_for_straight_lines(rule):
    nodes, weights = quadrature(rule, 7)
    assert weights @ nodes == pytest.approx(1 / 2, abs=1e-15)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("baseline", ["black", 0.75])
def test_a_linear_network_gives_weight_times_step_for_every_rule(
    rule, baseline, linear, some_images
):
    network, weights = linear
    arrays = explain(
        network,
        some_images,
        IntegratedGradients(steps=5, rule=rule, baseline=baseline),
        targets=[1, 2],
        precision="float64",
        channels="keep",
        micro_batch=4,
    )
    begin = 0.0 if baseline == "black" else baseline
    expected = ((some_images[:, None] - begin) * weights[[1, 2]]).numpy()
    np.testing.assert_allclose(arrays["attribution"], expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(arrays["completeness_gap"], 0, atol=1e-12)
    np.testing.assert_allclose(arrays["error_estimate"], 0, atol=1e-12)


def test_sum_of_squares_gives_the_squares(formula):
    network = formula(lambda x: (x**2).flatten(2).sum(dim=2))
    found, _ = attribution_of(network, row(-1.5, 0.0, 2.0), steps=2)
    np.testing.assert_allclose(found, [2.25, 0, 4], rtol=1e-14)


def test_a_product_is_shared_in_halves(formula):
    network = formula(lambda x: x[:, 0].prod(dim=2))
    found, _ = attribution_of(network, row(3.0, -4.0), steps=2)
    np.testing.assert_allclose(found, [-6, -6], rtol=1e-14)


def test_the_worked_example_of_two_rectifiers(formula):
    network = formula(
        lambda x: torch.relu(torch.relu(x[:, 0, :, 0] - 1) - torch.relu(x[:, 0, :, 1]))
    )
    found, _ = attribution_of(network, row(3.0, 1.0), steps=1000, rule="midpoint")
    np.testing.assert_allclose(found, [1.5, -0.5], rtol=1e-12)
    # Half of the weight of an even number of nodes lies beyond the kink in the middle.
    default, _ = attribution_of(network, row(3.0, 1.0))
    np.testing.assert_allclose(default, [1.5, -0.5], rtol=1e-12)


@pytest.mark.parametrize(("rule", "sign"), [("riemann_left", -1), ("riemann_right", 1)])
def test_the_gap_is_the_sum_minus_the_difference_signed(rule, sign, formula):
    network = formula(lambda x: (x**2).flatten(2).sum(dim=2) + 5)
    _, arrays = attribution_of(network, row(1.0, -2.0), steps=10, rule=rule)
    # Each rule misses x^2 / steps, on its own side.
    assert arrays["completeness_gap"][0, 0] == pytest.approx(sign * 5 / 10, rel=1e-12)


def rectifier_network():
    generator = torch.Generator().manual_seed(5)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 3)
    ).double()
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) / value.shape[-1] ** 0.5)
    images = torch.randn(60, 1, 5, 6, generator=generator, dtype=torch.float64)
    return network, images


def test_the_gap_is_that_of_the_network():
    network, images = rectifier_network()
    arrays = explain(
        network, images, IntegratedGradients(steps=6, baseline=0.3), targets="all",
        precision="float64",
    )  # fmt: skip
    with torch.no_grad():
        difference = (network(images) - network(torch.full_like(images, 0.3))).numpy()
    gap = arrays["attribution"].sum(axis=(2, 3)) - difference
    np.testing.assert_allclose(arrays["completeness_gap"], gap, atol=1e-12)
    assert np.abs(gap).max() > 1e-3


@pytest.mark.parametrize("rule", ["gauss_legendre", "midpoint"])
def test_the_error_estimate_bounds_and_follows_the_true_error(rule):
    network, images = rectifier_network()
    images = images[:20]

    def maps(**parameters):
        return explain(network, images, IntegratedGradients(**parameters), precision="float64")

    exact = maps(steps=1000, rule="midpoint")["attribution"]
    size = np.linalg.norm(exact, axis=(2, 3)).ravel()
    errors, estimates = [], []
    for steps in (8, 16, 32, 64):
        found = maps(steps=steps, rule=rule)
        errors.append(np.linalg.norm(found["attribution"] - exact, axis=(2, 3)).ravel() / size)
        estimates.append(found["error_estimate"].ravel())
    error, estimate = np.array(errors), np.array(estimates)
    assert (estimate >= error).all()
    assert 2 < np.median(estimate / error) < 8
    assert np.corrcoef(np.log(estimate.ravel()), np.log(error.ravel()))[0, 1] > 0.8


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"steps": 1}, "steps is 1; the path needs 2 nodes or more"),
        ({"rule": "simpson"}, "rule is 'simpson'; choose one of gauss_legendre, midpoint"),
        (
            {"baseline": "white"},
            "baseline is 'white'; choose a finite number, .* or black, image_m",
        ),
        ({"baseline": float("nan")}, "baseline is nan; choose a finite number"),
        ({"baseline": "blur", "blur_sigma": 0.0}, r"blur_sigma is 0.0; choose 0.1 to 1000 pixels"),
        ({"draws": 0}, "draws is 0; take 1 or more"),
        (
            {"draws": 3, "baseline": "blur"},
            "draws is 3, but all draws of baseline 'blur' are",
        ),
        ({"tolerance": 0.0}, "tolerance is 0.0; choose a number above 0"),
        ({"tolerance": 0.1, "max_steps": 49}, "max_steps is 49, less than steps, 50; raise it"),
        (
            {"tolerance": 0.1, "baseline": "sky_noise", "draws": 2},
            "more steps, which don't bring draws closer",
        ),
    ],
)
def test_parameters_without_meaning_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        IntegratedGradients(**parameters)


# Baselines


def baselines_of(images, fill, draws=1, **parameters):
    """The baselines of each object, (N, draws, C, H, W), in the objects' type."""
    ids = [str(n) for n in range(len(images))]
    batch = make_batch(None, images, ids, len(images), seed=0, needs=Needs())
    found = [
        [canvas(batch, n, fill, draw=d, **parameters).expand_as(images[n]) for d in range(draws)]
        for n in range(len(images))
    ]
    return torch.stack([torch.stack(row) for row in found])


@pytest.mark.parametrize("baseline", [(0.5, -2.0), "image_mean", "blur", "sky_noise"])
def test_a_linear_network_gives_weight_times_step_from_any_baseline(baseline, linear, some_images):
    network, weights = linear
    method = IntegratedGradients(3, "midpoint", baseline, blur_sigma=1.5)
    arrays = explain(
        network, some_images, method, targets=[1, 2], precision="float64", channels="keep",
        micro_batch=4,
    )  # fmt: skip
    begin = baselines_of(some_images, baseline, blur_sigma=1.5)
    expected = ((some_images[:, None] - begin) * weights[[1, 2]]).numpy()
    np.testing.assert_allclose(arrays["attribution"], expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(arrays["completeness_gap"], 0, atol=1e-12)


def test_draws_are_averaged_with_steps_of_their_own(linear, some_images):
    network, weights = linear
    method = IntegratedGradients(2, baseline="sky_noise", draws=5)
    arrays = explain(
        network, some_images, method, targets=0, precision="float64", channels="keep", micro_batch=4
    )
    begin = baselines_of(some_images, "sky_noise", draws=5, blur_sigma=8.0)
    step = (some_images[:, None] - begin).mean(dim=1)
    expected = (step * weights[0]).numpy()
    np.testing.assert_allclose(arrays["attribution"][:, 0], expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(arrays["completeness_gap"], 0, atol=1e-12)
    # Of a linear network the paths are exact: what the estimate shows is the spread of the draws.
    maps = (some_images[:, None] - begin) * weights[0]
    spread = (maps[:, 0::2].mean(dim=1) - maps[:, 1::2].mean(dim=1)).flatten(1).norm(dim=1)
    expected = (spread / maps.mean(dim=1).flatten(1).norm(dim=1)).numpy()
    np.testing.assert_allclose(arrays["error_estimate"][:, 0], expected, rtol=1e-10)


def test_the_gap_refers_to_the_mean_over_draws():
    network, images = rectifier_network()
    images = images[:4]
    method = IntegratedGradients(4, baseline="sky_noise", draws=3)
    arrays = explain(network, images, method, targets="all", precision="float64", micro_batch=4)
    begin = baselines_of(images, "sky_noise", draws=3, blur_sigma=8.0)
    with torch.no_grad():
        start = torch.stack([network(row) for row in begin]).mean(dim=1)
        difference = (network(images) - start).numpy()
    gap = arrays["attribution"].sum(axis=(2, 3)) - difference
    np.testing.assert_allclose(arrays["completeness_gap"], gap, atol=1e-12)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({}, {"baseline": "black"}),
        ({"baseline": (0.5, 1.0)}, {"baseline": [0.5, 1.0]}),
        ({"baseline": "blur", "blur_sigma": 2.0}, {"baseline": "blur", "blur_sigma": 2.0}),
        ({"baseline": "sky_noise", "draws": 3}, {"baseline": "sky_noise", "draws": 3}),
        ({"tolerance": 0.1}, {"baseline": "black", "tolerance": 0.1, "max_steps": 800}),
    ],
)
def test_arrays_tell_where_paths_began(parameters, told):
    method = IntegratedGradients(**parameters)
    for spec in method.arrays(Layout((2, 5, 6), 3)):
        attributes = dict(spec.attributes)
        attributes.pop("channels", None)
        assert attributes == {"steps": 50, "rule": "gauss_legendre", **told}
    assert ("Erion 2021" in method.arrays(Layout((2, 5, 6), 3))[0].convention) == (method.draws > 1)


def test_a_baseline_with_another_number_of_channels_is_refused(linear, some_images):
    method = IntegratedGradients(3, baseline=(0.1, 0.2, 0.3))
    with pytest.raises(ValueError, match="baseline has 3 values, the image has 2 channels"):
        explain(linear[0], some_images, method)


# Refinement


def test_objects_are_refined_until_the_estimate_is_met_or_steps_run_out():
    network, images = rectifier_network()
    tolerance, most = 0.25, 22

    def made(steps=4, **parameters):
        return explain(
            network, images, IntegratedGradients(steps, "midpoint", **parameters), targets=[0, 2],
            precision="float64", micro_batch=16,
        )  # fmt: skip

    found = made(tolerance=tolerance, max_steps=most)
    used = found["steps"]
    levels = {steps: made(steps) for steps in np.unique(used).tolist()}
    assert {4, most} < levels.keys()
    assert all(steps % 4 == 0 for steps in levels if steps != most)
    for place, steps in np.ndenumerate(used):
        for name in ("attribution", "completeness_gap", "error_estimate"):
            np.testing.assert_array_equal(found[name][place], levels[steps][name][place])
    first = levels[4]["error_estimate"]
    np.testing.assert_array_equal(used == 4, first <= tolerance)
    assert ((found["error_estimate"] <= tolerance) | (used == most)).all()
    # At least as many as an error that falls as 1 / steps asks for.
    again = used > 4
    assert (used >= np.minimum(4 * first / tolerance, most))[again].all()


def test_the_last_steps_are_max_steps_and_the_estimate_tells_how_far_they_got():
    network, images = rectifier_network()
    method = IntegratedGradients(4, tolerance=1e-6, max_steps=7)
    arrays = explain(network, images[:3], method, precision="float64", micro_batch=4)
    assert (arrays["steps"] == 7).all()
    assert (arrays["error_estimate"] > 1e-6).all()
    plain = explain(network, images[:3], IntegratedGradients(7), precision="float64", micro_batch=4)
    np.testing.assert_array_equal(arrays["attribution"], plain["attribution"])


def test_a_map_without_evidence_is_exact_at_once(formula):
    network = formula(lambda x: 0 * x.flatten(1)[:, :2])
    method = IntegratedGradients(2, tolerance=1e-6)
    arrays = explain(network, torch.randn(2, 1, 3, 3), method)
    assert (arrays["steps"] == 2).all()
    assert (arrays["error_estimate"] == 0).all()


def test_maps_that_are_finished_again_are_not_refined_again():
    network, images = rectifier_network()
    method = IntegratedGradients(4, tolerance=0.04)
    batch = make_batch(network, images[:4], list("abcd"), 4, seed=0, needs=method.needs)
    targets, layout = np.array([[0], [1], [2], [0]]), Layout((1, 5, 6), 3, channels="keep")
    partial = method.partial(batch, targets)
    first = complete(method, partial, batch, targets, layout)
    passes = replace(batch.passes)
    kept = {name: values.copy() for name, values in first.items()}
    for values in first.values():
        values[...] = 0
    for name, values in complete(method, partial, batch, targets, layout).items():
        np.testing.assert_array_equal(values, kept[name])
    assert batch.passes == passes
    assert kept["steps"].min() > 4
    # One repetition did for each of them.
    assert passes.backward == 4 * 4 + sum(kept["steps"].ravel())


def test_an_object_is_refined_the_same_in_any_company():
    network, images = rectifier_network()
    method = IntegratedGradients(4, "midpoint", tolerance=0.03, max_steps=32)

    def refined(rows, ids):
        return explain(
            network, images[rows], method, ids=ids, precision="float64", micro_batch=8
        )  # fmt: skip

    together = refined(slice(0, 8), [str(n) for n in range(8)])
    for n in range(8):
        alone = refined(slice(n, n + 1), [str(n)])
        for name, values in alone.items():
            np.testing.assert_array_equal(values[0], together[name][n])


def test_a_target_that_an_object_lacks_asks_for_nothing():
    network, images = rectifier_network()
    method = IntegratedGradients(4, "midpoint", tolerance=1e-9, max_steps=8)
    labels = torch.tensor([-1, 1])
    arrays = explain(network, images[:2], method, targets="label", labels=labels)
    assert arrays["steps"].tolist() == [[-1], [8]]
