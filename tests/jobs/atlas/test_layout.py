"""Layouts of activations: what they depend on, and that they keep what is alike together."""

import importlib.util

import numpy as np
import pytest

from jobs.atlas.layout import Layout, require_umap
from jobs.errors import RefusedError

FILTERS = 12


def kinds(count, seed=0):
    """Activations of three kinds whose directions differ, and which kind each is."""
    random = np.random.default_rng(seed)
    kind = np.arange(count) % 3
    noise = np.maximum(random.normal(0, 0.2, (count, FILTERS)), 0)  # half of them are silent
    base = np.eye(FILTERS)[:3][kind] + np.eye(FILTERS)[3:6][kind]
    strength = random.uniform(0.5, 4, (count, 1))  # a cosine does not see it
    return (strength * (base + noise)).astype(np.float32), kind


@pytest.fixture(scope="module")
def fitted():
    activations, kind = kinds(150)
    return Layout.fit(activations, seed=5), activations, kind


def test_kinds_are_apart_and_strength_does_not_count(fitted):
    layout, activations, kind = fitted
    place = layout.place(activations)
    assert place.shape == (150, 2)
    assert place.min() == 0
    assert place.max() == 1
    centres = np.stack([place[kind == k].mean(axis=0) for k in range(3)])
    nearest = np.linalg.norm(place[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == kind).mean() > 0.95


def test_a_layout_is_a_function_of_the_set_of_activations_and_the_seed(fitted):
    layout, activations, _ = fitted
    order = np.random.default_rng(1).permutation(150)
    twice = np.concatenate([activations[order], activations])
    again = Layout.fit(twice, seed=5)
    np.testing.assert_array_equal(again.place(activations), layout.place(activations))
    assert again.attributes == layout.attributes
    assert layout.attributes["fitted"] == 150
    other = Layout.fit(activations, seed=6)
    assert (other.place(activations) != layout.place(activations)).any()


@pytest.mark.slow
def test_other_activations_are_placed_among_those_of_their_kind(fitted):
    layout, activations, kind = fitted
    place = layout.place(activations)
    more, their_kind = kinds(31, seed=9)
    found = layout.place(np.concatenate([more, activations[:4]]))
    np.testing.assert_array_equal(found[31:], place[:4])
    assert ((found >= 0) & (found <= 1)).all()
    nearest = np.linalg.norm(found[:31, None] - place, axis=2).argmin(axis=1)
    assert (kind[nearest] == their_kind).mean() > 0.95
    np.testing.assert_array_equal(layout.place(more), layout.place(more))


def test_zeros_of_either_sign_are_the_same(fitted):
    layout, activations, _ = fitted
    assert (activations == 0).any()
    signed = np.where(activations == 0, np.float32(-0.0), activations)
    np.testing.assert_array_equal(layout.place(signed), layout.place(activations))


def test_too_few_different_activations_are_refused():
    few = np.repeat(kinds(20)[0], 3, axis=0)
    with pytest.raises(RefusedError, match=r"there are 20 different activations; .* needs 21"):
        Layout.fit(few, seed=0)


def test_an_absent_library_is_named_with_its_cure(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RefusedError, match=r'pip install "occulta\[atlas\]"'):
        require_umap()
