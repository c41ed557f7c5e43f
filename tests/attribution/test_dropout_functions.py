"""Dropout that a network calls as a function is sampled as that of a layer is."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from attribution import AttributionUncertainty, MCDropout, MutualInformationAttribution, explain
from attribution.dropout_functions import DropoutFunctions
from attribution.dropout_masks import hashed_dropout
from attribution.randomness import key
from training.networks import build

KEYS = [key(n) for n in range(6)]


def sampled(network, x, keys=KEYS):
    with torch.no_grad(), hashed_dropout(network.eval(), keys):
        return network(x)


STYLES = {
    "function": lambda x: F.dropout(x, 0.4, training=False),
    "default": lambda x: F.dropout(x, training=False),
    "in_place": lambda x: F.dropout(x, 0.4, False, True),
    "torch": lambda x: torch.dropout(x, 0.4, False),
    "torch_in_place": lambda x: torch.dropout_(x, 0.4, False),
}


@pytest.mark.parametrize("style", STYLES)
def test_values_are_dropped_and_scaled(formula, style):
    p = 0.5 if style == "default" else 0.4
    found = sampled(formula(STYLES[style]), torch.ones(6, 5000))
    kept = found > 0
    np.testing.assert_allclose(found[kept].numpy(), 1 / (1 - p), rtol=1e-6)
    assert abs(kept.double().mean() - (1 - p)) < 5 * np.sqrt(p * (1 - p) / 30_000)
    assert not torch.equal(kept[0], kept[1])


def test_a_function_in_place_overwrites_what_it_is_given(formula):
    def forgetful(x):
        F.dropout(x, 0.4, training=False, inplace=True)
        return x

    expected = sampled(formula(STYLES["function"]), torch.ones(6, 50))
    assert torch.equal(sampled(formula(forgetful), torch.ones(6, 50)), expected)


@pytest.mark.parametrize("function", [F.dropout1d, F.dropout2d, F.dropout3d, torch.feature_dropout])
def test_channel_dropout_drops_whole_channels(formula, function):
    axes = {"dropout1d": 1, "dropout3d": 3}.get(function.__name__, 2)
    network = formula(lambda x: function(x, 0.5, False))
    kept = sampled(network, torch.ones(6, 200, *[4] * axes)).flatten(2) > 0
    assert (kept.all(dim=2) | ~kept.any(dim=2)).all()
    assert 0.4 < kept.double().mean() < 0.6


def test_each_call_of_a_pass_draws_anew_and_passes_repeat(formula):
    network = formula(lambda x: torch.stack((STYLES["function"](x), STYLES["function"](x))))
    with torch.no_grad(), hashed_dropout(network, KEYS):
        (first, second), (again, _) = network(torch.ones(6, 500)), network(torch.ones(6, 500))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_functions_are_off_outside_and_layers_keep_their_masks(formula):
    layer = nn.Dropout(0.4)
    alone = sampled(nn.Sequential(layer), torch.ones(6, 300))
    function = formula(STYLES["function"])
    both = sampled(nn.Sequential(layer, function), torch.ones(6, 300))
    assert torch.equal(both > 0, (alone > 0) & (both > 0))
    assert not torch.equal(both > 0, alone > 0)
    assert torch.equal(function(torch.ones(6, 300)), torch.ones(6, 300))


def test_calls_of_layers_and_of_probability_0_do_not_count(formula):
    network = nn.Sequential(
        nn.Dropout(0.5),
        nn.Dropout2d(0.0),
        formula(lambda x: F.dropout(x, 0.0, training=False)),
        formula(STYLES["function"]),
    ).eval()
    with DropoutFunctions(network) as functions:
        for _ in range(2):
            network(torch.ones(1, 3, 2, 2))
    assert functions.calls == 1
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network)


def test_layers_are_left_again_when_they_fail():
    class Failing(nn.Dropout):
        def forward(self, x):
            raise ArithmeticError

    network = nn.Sequential(Failing(0.5)).eval()
    with DropoutFunctions(network) as functions:
        with pytest.raises(ArithmeticError):
            network(torch.ones(1, 2))
        F.dropout(torch.ones(1, 2), 0.5, training=False)
    assert functions.calls == 1


# Networks of the libraries: their drop_rate is such a function.

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def calls_in(network):
    with torch.no_grad(), DropoutFunctions(network) as functions:
        network(IMAGES[:1])
    return functions.calls


@pytest.mark.parametrize(
    ("architecture", "options", "calls"),
    [
        ("timm:resnet18", {"drop_rate": 0.3}, 1),
        ("timm:mobilenetv2_050", {"drop_rate": 0.3}, 1),
        ("torchvision:densenet121", {"drop_rate": 0.3}, 58),
        ("timm:densenet121", {"drop_rate": 0.3, "proj_drop_rate": 0.3}, 58),
    ],
)
def test_the_drop_rate_of_a_librarys_network_is_sampled(architecture, options, calls):
    torch.manual_seed(0)
    network = build(architecture, 4, 3, options).eval()
    assert calls_in(network) == calls
    options = {"micro_batch": 2, "targets": 1}
    found = explain(network, IMAGES, MCDropout(4), **options)
    assert found["probability_std"].min() > 0
    again = explain(network, IMAGES, MCDropout(4), **options)
    for name, array in found.items():
        np.testing.assert_array_equal(array, again[name])
    if "proj_drop_rate" in options:
        # Its head has a layer of dropout as well: more varies than with that alone.
        for block in network.modules():
            if type(block).__name__ == "DenseLayer":
                block.drop_rate = 0.0
        head = explain(network, IMAGES, MCDropout(4), **options)
        assert (head["probability_std"] != found["probability_std"]).all()


def test_maps_over_sub_networks_sample_functions_too():
    torch.manual_seed(0)
    network = build("timm:resnet18", 4, 3, {"drop_rate": 0.3}).eval()
    options = {"micro_batch": 2, "targets": 1}
    spread = explain(network, IMAGES, AttributionUncertainty(3), **options)["attribution_std"]
    assert (spread.max(axis=(2, 3)) > 0).all()
    found = explain(network, IMAGES, MutualInformationAttribution(3), **options)["attribution"]
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 0


def test_the_same_dropout_as_function_and_before_the_last_layer_has_the_same_statistics():
    torch.manual_seed(0)
    plain = build("timm:resnet18", 3).eval()
    called = build("timm:resnet18", 3, 3, {"drop_rate": 0.5}).eval()
    called.load_state_dict(plain.state_dict())
    features = torch.randn(1, 512) * 3
    keys = [key(n) for n in range(4000)]
    with torch.no_grad():
        with hashed_dropout(called, keys):
            one = called.forward_head(features[..., None, None].expand(4000, -1, 1, 1))
        with hashed_dropout(plain, keys, inject=0.5):
            other = plain.fc(features.expand(4000, -1))
    error = one.std(dim=0) / 4000**0.5
    assert ((one.mean(dim=0) - other.mean(dim=0)).abs() < 5 * error).all()
    torch.testing.assert_close(one.std(dim=0), other.std(dim=0), rtol=0.06, atol=0)


@pytest.mark.parametrize(
    ("function", "inject", "message"),
    [
        (STYLES["function"], 0.2, r"inject is 0.2, and .* \(calls of dropout functions: 1\)"),
        (lambda x: F.alpha_dropout(x, 0.5), None, "^alpha_dropout is not supported: it replaces"),
        (lambda x: F.dropout(x, 0.0, training=False), None, "no dropout layer with p > 0"),
    ],
)
def test_what_can_not_be_sampled_is_refused(formula, function, inject, message):
    network = nn.Sequential(nn.Flatten(), formula(function), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=message):
        explain(network, torch.zeros(1, 1, 2, 2), MCDropout(2, inject=inject))
