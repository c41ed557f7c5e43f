"""Directions that tell activations apart, and images that a place answers in a direction."""

import numpy as np
import pytest
import torch
from torch import nn

from attribution.batch import reproducible
from attribution.inceptionism import ClassImage, Colours
from attribution.inceptionism.feature_inversion import RIDGE, Likeness, icon_settings, whitened


def second_moment(activations_NF):
    return activations_NF.T @ activations_NF / len(activations_NF)


def test_whitening_divides_by_the_second_moment():
    ridge = RIDGE * 2.5
    found = whitened(np.array([[1.0, 1.0], [0.0, 3.0], [0.0, 0.0]]), np.diag([1.0, 4.0]))
    expected = np.array([1 / (1 + ridge), 1 / (4 + ridge)])
    np.testing.assert_allclose(found[0], expected / np.linalg.norm(expected))
    np.testing.assert_allclose(found[1], [0, 1])
    np.testing.assert_array_equal(found[2], [0, 0])


def test_what_all_activations_share_is_no_part_of_a_direction():
    random = np.random.default_rng(0)
    common = np.array([10.0, 10.0, 10.0])
    own = np.array([[1.0, 0, -1], [-1, 1, 0], [0, -1, 1]])
    groups = [common + each + 0.05 * random.normal(size=(500, 3)) for each in own]
    means = np.stack([group.mean(axis=0) for group in groups])
    plain = means / np.linalg.norm(means, axis=1, keepdims=True)
    assert (plain @ plain.T).min() > 0.99
    moment = second_moment(np.concatenate(groups))
    # With filters that vary alike, the ridge would hide how little is their own.
    directions = whitened(means, moment)
    scores = np.stack([group @ directions.T for group in groups]).mean(axis=1)
    assert (scores.argmax(axis=1) == [0, 1, 2]).all()


def test_filters_that_never_fire_or_are_copies_are_no_trouble():
    random = np.random.default_rng(1)
    live = np.abs(random.normal(size=(200, 2)))
    activations = np.column_stack([live, live[:, 0], np.zeros(200)])
    found = whitened(activations[:3], second_moment(activations))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    np.testing.assert_allclose(found[:, 0], found[:, 2])
    np.testing.assert_array_equal(found[:, 3], 0)


@pytest.fixture
def network():
    """A rotation of two bands, pixel by pixel, and then what an atlas does not look at."""
    turn = nn.Conv2d(2, 2, 1, bias=False)
    with torch.no_grad():
        turn.weight.copy_(torch.tensor([[0.6, -0.8], [0.8, 0.6]]).reshape(2, 2, 1, 1))
    return (
        nn.Sequential(turn, nn.Flatten(), nn.Linear(2 * 5 * 4, 3))
        .double()
        .eval()
        .requires_grad_(False)
    )


def test_the_score_is_the_formula_at_the_place(network):
    image = torch.zeros(1, 2, 5, 4, dtype=torch.float64)
    image[0, :, 3, 2] = torch.tensor([3.0, 1.0])
    answer = np.array([0.6 * 3 - 0.8, 0.8 * 3 + 0.6])
    directions = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    scores = Likeness(network, "0", (3, 2), directions)(image)[0].numpy()
    dot = directions @ answer
    cosine = dot / np.linalg.norm(answer)
    np.testing.assert_allclose(scores, dot * np.maximum(0.1, cosine) ** 4, rtol=1e-6)
    assert cosine[2] < 0.1  # the floor counts
    nothing = Likeness(network, "0", (0, 0), directions)(image)
    np.testing.assert_array_equal(nothing, np.zeros((1, 3)))


def test_an_image_without_an_answer_has_a_gradient(network):
    image = torch.zeros(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    score = Likeness(network, "0", (3, 2), np.array([[0.0, 1.0]]))(image)
    (gradient,) = torch.autograd.grad(score.sum(), image)
    # The floor of the cosine leaves the direction of the dot product: w_1 at that pixel.
    expected = np.zeros((2, 5, 4))
    expected[:, 3, 2] = 0.1**4 * np.array([0.8, 0.6])
    np.testing.assert_allclose(gradient[0], expected)


def test_ascent_finds_the_image_that_is_known(network):
    directions = np.array([[1.0, 0.0], [0.28, 0.96]])
    likeness = Likeness(network, "0", (2, 2), directions)
    still = {"pad": 0, "jitter": 0, "scale": 0.0, "rotate": 0.0}
    settings = ClassImage(parametrisation="pixel", bounded=False, steps=100, **still)
    with reproducible():
        drawn = settings.draw(
            likeness, [0, 1], [5, 6], (2, 5, 4), Colours.unknown(2), dtype=torch.float64
        )
    answers = likeness.activation(torch.as_tensor(drawn.image)).numpy()
    cosine = (answers * directions).sum(axis=1) / np.linalg.norm(answers, axis=1)
    assert (cosine > 0.99).all()
    assert (np.linalg.norm(answers, axis=1) > 3).all()
    # The place sees one pixel: nothing else is drawn.
    rest = np.delete(drawn.image.reshape(2, 2, -1), 2 * 4 + 2, axis=2)
    assert np.abs(rest).max() < 0.1


@pytest.mark.parametrize(("seen", "jitter"), [((22, 22), 2), ((46, 60), 4), ((200, 224), 8)])
def test_a_place_that_sees_little_is_moved_little(seen, jitter):
    settings = icon_settings(100, seen)
    assert (settings.jitter, settings.steps) == (jitter, 100)
    assert settings.parametrisation == "fourier"
