"""Feature maps and the strongest responses, against the layers themselves."""

import numpy as np
import pytest
import torch
from conformance.methods import MethodConformance
from hypothesis import strategies as st
from torch import nn

from attribution import explain
from attribution.features import FeatureMaps, TopResponses

LAYERS = ("0", "2", "3", "5")
CHOSEN = st.sampled_from([("0",), ("2", "5"), ("3",)])
"""Layers of the conformance suite's network, before and after pooling."""


class TestFeatureMaps(MethodConformance):
    layers = LAYERS
    methods = st.builds(
        FeatureMaps,
        layers=CHOSEN,
        pooling=st.sampled_from(["none", "mean", "max", "grid"]),
        grid=st.integers(1, 2),
    )


class TestTopResponses(MethodConformance):
    layers = LAYERS
    methods = st.builds(TopResponses, layers=CHOSEN, k=st.integers(1, 20))


@pytest.fixture
def network() -> nn.Module:
    """The identity on one band, and then its negative as a second filter; logits are means."""
    first = nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
    return nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_pooling_by_hand(network: nn.Module) -> None:
    image = torch.arange(-4.0, 12.0).reshape(1, 1, 4, 4)

    def of(**parameters):
        return explain(network, image, FeatureMaps(("0",), **parameters))["0"][0]

    np.testing.assert_array_equal(of(), [image[0, 0], -image[0, 0]])
    np.testing.assert_array_equal(of(pooling="mean"), [3.5, -3.5])
    np.testing.assert_array_equal(of(pooling="max"), [11, 4])
    grid = np.array([[-1.5, 0.5], [6.5, 8.5]])
    np.testing.assert_array_equal(of(pooling="grid", grid=2), [grid, -grid])


def test_the_first_of_equal_responses_counts(network: nn.Module) -> None:
    image = torch.zeros(2, 1, 3, 5)
    image[0, 0, 1, 3] = image[0, 0, 2, 0] = 2.0
    image[1, 0, 0, 4] = -1.0
    arrays = explain(network, image, TopResponses(("1",)))
    np.testing.assert_array_equal(arrays["1_value"], [[2, 0], [0, 1]])
    np.testing.assert_array_equal(arrays["1_position"], [[[1, 3], [0, 0]], [[0, 0], [0, 4]]])


def test_responses_are_maxima_of_the_maps() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.Flatten(), nn.LazyLinear(2))
    images = torch.randn(11, 3, 12, 9)
    network(images)
    maps = explain(network, images, FeatureMaps(("0",)), micro_batch=4)["0"]
    found = explain(network, images, TopResponses(("0",)), micro_batch=4)
    np.testing.assert_array_equal(found["0_value"], maps.max(axis=(2, 3)))
    y, x = np.moveaxis(found["0_position"], -1, 0)
    rows, filters = np.ogrid[:11, :6]
    np.testing.assert_array_equal(maps[rows, filters, y, x], found["0_value"])


def test_a_layer_without_positions_is_kept_whole_and_refused_elsewhere(network: nn.Module) -> None:
    image = torch.ones(1, 1, 2, 2)
    np.testing.assert_array_equal(explain(network, image, FeatureMaps(("3",)))["3"], [[1, 0]])
    with pytest.raises(ValueError, match=r"layer '3' puts out 2 per image.* pooling: none"):
        explain(network, image, FeatureMaps(("3",), pooling="mean"))
    with pytest.raises(ValueError, match="layer '3' puts out 2 per image"):
        explain(network, image, TopResponses(("3",)))
    with pytest.raises(ValueError, match="grid is 3, layer '0' puts out only 2x2"):
        explain(network, image, FeatureMaps(("0",), pooling="grid", grid=3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureMaps(()), "layers is empty"),
        (lambda: FeatureMaps(("a.b", "a_b")), "2 whose arrays would be called 'a_b'"),
        (lambda: FeatureMaps(("a",), pooling="median"), "pooling is 'median'; choose one of none"),
        (lambda: FeatureMaps(("a",), grid=0), "grid is 0"),
        (lambda: TopResponses(("a",), k=0), "k is 0"),
    ],
)
def test_parameters_without_meaning_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
