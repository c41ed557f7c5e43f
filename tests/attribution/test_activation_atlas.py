"""Activations at random places: which places, and what they are the same for."""

import numpy as np
import pytest
import torch
from conformance.methods import MethodConformance
from hypothesis import strategies as st
from torch import nn

from attribution import ActivationAtlas, explain
from attribution.activation_atlas import inner_positions
from attribution.features import FeatureMaps


class TestActivationAtlas(MethodConformance):
    layers = ("0", "2", "3", "5")
    methods = st.builds(ActivationAtlas, layers=st.sampled_from([("0",), ("2", "5"), ("3",)]))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 6, 3, padding=1)
    return nn.Sequential(
        first, nn.ReLU(), nn.Conv2d(6, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(11, 3, 9, 7, generator=torch.Generator().manual_seed(1))


def ids(images):
    return [f"galaxy {n}" for n in range(len(images))]


def test_activations_are_those_of_the_layer_at_the_place(network, images):
    layers = ("0", "2")
    found = explain(network, images, ActivationAtlas(layers), ids=ids(images), micro_batch=4)
    for layer in layers:
        maps = explain(network, images, FeatureMaps((layer,)), micro_batch=4)[layer]
        y, x = found[f"{layer}_position"].T
        np.testing.assert_array_equal(found[f"{layer}_activation"], maps[np.arange(11), :, y, x])
        inside = np.array(maps.shape[2:]) - 1
        assert (found[f"{layer}_position"] >= 1).all()
        assert (found[f"{layer}_position"] < inside).all()


def test_a_place_follows_from_seed_object_and_layer_alone(network, images):
    method, names = ActivationAtlas(("0", "1")), ids(images)
    whole = explain(network, images, method, ids=names, seed=3, micro_batch=4)
    order = np.random.default_rng(0).permutation(11)
    again = explain(
        network, images[order], method, ids=[names[n] for n in order], seed=3, micro_batch=5
    )
    for layer in ("0", "1"):
        np.testing.assert_array_equal(again[f"{layer}_position"], whole[f"{layer}_position"][order])
        np.testing.assert_allclose(
            again[f"{layer}_activation"], whole[f"{layer}_activation"][order], rtol=1e-5, atol=1e-6
        )
    assert (whole["0_position"] != whole["1_position"]).any()
    other = explain(network, images, method, ids=names, seed=4, micro_batch=4)
    assert (other["0_position"] != whole["0_position"]).any()


def test_every_inner_place_is_as_likely_and_the_border_is_not_drawn():
    places = inner_positions(list(range(0, 12_000 << 20, 1 << 20)), (5, 6))
    count = np.zeros((5, 6), dtype=int)
    np.add.at(count, tuple(places.T), 1)
    assert count[[0, -1]].sum() + count[:, [0, -1]].sum() == 0
    # 12 places, 1000 times each, give or take 5 standard deviations.
    assert np.abs(count[1:-1, 1:-1] - 1000).max() < 5 * np.sqrt(1000 * 11 / 12)


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (2, 7), (3, 2)])
def test_of_one_or_two_rows_each_may_be_drawn(shape):
    places = inner_positions(list(range(500)), shape)
    expected = [range(size) if size < 3 else range(1, size - 1) for size in shape]
    for axis in (0, 1):
        assert set(places[:, axis].tolist()) == set(expected[axis])


def test_what_has_no_places_is_refused(network, images):
    with pytest.raises(ValueError, match=r"layer '4' puts out 4 per image.* name a convolution"):
        explain(network, images, ActivationAtlas(("4",)))
    with pytest.raises(ValueError, match="layers is empty"):
        ActivationAtlas(())
