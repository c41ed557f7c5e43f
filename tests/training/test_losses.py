from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from training.fit_settings import FitSettings
from training.losses import (
    CrossEntropy,
    DirichletMultinomial,
    MeanSquaredError,
    Multinomial,
    balanced_weights,
    objective_of,
)

LOGITS = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, -1.0], [1.0, 3.0, 0.5], [0.2, 0.1, -0.3]])
LABELS = torch.tensor([0, 0, 1, 2])


def objective(targets, **settings):
    targets = np.asarray(targets)
    return objective_of(FitSettings(**settings), targets, targets)


def test_cross_entropy_of_equal_logits_is_the_log_of_their_number():
    losses = CrossEntropy(3).losses(torch.zeros(2, 3), torch.tensor([0, 2]))
    torch.testing.assert_close(losses, torch.full((2,), np.log(3.0), dtype=torch.float32))


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 4.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_torch_s(weights, smoothing):
    settings = {"label_smoothing": smoothing}
    if weights:
        settings["class_weights"] = tuple(weights)
    ours = objective(LABELS, **settings)
    weight = torch.tensor(weights) if weights else None
    theirs = functional.cross_entropy(
        LOGITS, LABELS, weight, reduction="sum", label_smoothing=smoothing
    )
    torch.testing.assert_close(ours.losses(LOGITS, LABELS, training=True).sum(), theirs)
    plain = functional.cross_entropy(LOGITS, LABELS, weight, reduction="sum")
    torch.testing.assert_close(ours.losses(LOGITS, LABELS).sum(), plain)


def test_the_losses_of_shares_add_up_to_that_of_the_batch():
    ours = objective(LABELS, class_weights="balanced")
    whole = ours.losses(LOGITS, LABELS).sum()
    shares = [ours.losses(LOGITS[part], LABELS[part]).sum() for part in (slice(3), slice(3, 4))]
    torch.testing.assert_close(sum(shares), whole)


def test_balanced_weights_let_every_class_count_alike():
    labels = np.array([0] * 6 + [2] * 2)
    weights = balanced_weights(labels, 4)
    np.testing.assert_allclose(weights, [8 / 12, 1.0, 8 / 4, 1.0])
    assert weights[labels].mean() == pytest.approx(1.0)


def test_balanced_weights_are_scikit_learn_s():
    labels = np.random.default_rng(0).choice(3, 100, p=[0.7, 0.2, 0.1])
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(balanced_weights(labels, 3), theirs)


def test_multinomial_is_the_likelihood_of_votes_up_to_a_constant():
    """Differences between two networks are those of scipy's log probabilities."""
    votes = torch.tensor([[3, 5, 2], [10, 0, 0], [0, 0, 0]])
    ours = Multinomial((3,))
    differences = ours.losses(LOGITS[:3], votes) - ours.losses(LOGITS[1:4], votes)
    for row in range(3):
        p, q = (torch.softmax(LOGITS[row + k].double(), 0).numpy() for k in (0, 1))
        counts = votes[row].numpy()
        theirs = stats.multinomial.logpmf(counts, counts.sum(), q) - stats.multinomial.logpmf(
            counts, counts.sum(), p
        )
        assert float(differences[row]) == pytest.approx(theirs, abs=1e-5)


def test_multinomial_of_fractions_is_cross_entropy_with_soft_labels():
    fractions = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    theirs = functional.cross_entropy(LOGITS[:2], fractions, reduction="none")
    torch.testing.assert_close(Multinomial((3,)).losses(LOGITS[:2], fractions), theirs)


def test_votes_on_several_questions_add_their_losses():
    z = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    votes = torch.randint(0, 9, (5, 5), generator=torch.Generator().manual_seed(1))
    for kind in (Multinomial, DirichletMultinomial):
        apart = kind((2,)).losses(z[:, :2], votes[:, :2]) + kind((3,)).losses(
            z[:, 2:], votes[:, 2:]
        )
        torch.testing.assert_close(kind((2, 3)).losses(z, votes), apart)


def test_dirichlet_multinomial_is_scipy_s():
    a = torch.tensor([[1.0, 2.0, 3.0], [50.0, 1.5, 7.0], [1.0, 1.0, 1.0]])
    votes = torch.tensor([[4, 0, 6], [30, 2, 8], [0, 0, 0]])
    losses = DirichletMultinomial((3,)).losses(a.log(), votes)
    theirs = -stats.dirichlet_multinomial.logpmf(votes.numpy(), a.numpy(), votes.sum(1).numpy())
    np.testing.assert_allclose(losses.numpy(), theirs, rtol=2e-4, atol=1e-5)


def test_questions_without_votes_teach_nothing():
    z = LOGITS.clone().requires_grad_()
    for kind in (Multinomial, DirichletMultinomial):
        (gradient,) = torch.autograd.grad(kind((3,)).losses(z, torch.zeros(4, 3)).sum(), z)
        assert gradient.abs().max() < 1e-6


def test_numbers_are_compared_in_units_of_their_spread():
    targets = np.array([[0.0, 100.0], [2.0, 300.0], [4.0, 500.0]])
    ours = objective(targets, loss="mean_squared_error")
    outputs = torch.tensor([[0.5, -1.0], [0.0, 0.0], [1.0, 2.0]])
    standard = torch.from_numpy((targets - targets.mean(0)) / targets.std(0)).float()
    theirs = functional.mse_loss(outputs, standard)
    torch.testing.assert_close(ours.losses(outputs, torch.from_numpy(targets)).mean(), theirs)
    assert ours.card() == {
        "loss": "mean_squared_error",
        "mean": [2.0, 300.0],
        "std": [pytest.approx(np.sqrt(8 / 3)), pytest.approx(100 * np.sqrt(8 / 3))],
    }


def test_scores_by_hand():
    assert CrossEntropy(3).score(LOGITS, LABELS) == (3.0, 4.0)
    votes = torch.tensor([[5, 1, 0, 0, 9], [0, 3, 1, 0, 0]])
    z = torch.tensor([[1.0, 0.0, 0.0, 0.0, 2.0], [1.0, 0.0, 0.0, 5.0, 0.0]])
    assert Multinomial((2, 3)).score(z, votes) == (2.0, 4.0)
    line = MeanSquaredError(np.array([1.0]), np.array([1.0]))
    wanted = torch.tensor([[0.0], [2.0]])
    assert line.score(torch.tensor([[-1.0], [1.0]]), wanted) == (2.0, 2.0)
    assert line.score(torch.zeros(2, 1), wanted) == (0.0, 2.0)


@pytest.mark.parametrize(
    ("targets", "settings", "match"),
    [
        ([0.5, 1.0], {}, "takes one integer for each object"),
        ([0, -1], {}, "go down to -1"),
        ([0, 1, 2], {"class_weights": (1.0, 2.0)}, "2 weights for 3 classes"),
        ([1, 2], {"loss": "multinomial"}, r"takes numbers \(N, K\)"),
        ([[1.0, -2.0]], {"loss": "multinomial"}, "takes none below 0"),
        ([[1, 2, 3]], {"loss": "multinomial", "questions": (2, 2)}, "have 4 answers, the votes"),
        ([[1.0], [np.nan]], {"loss": "mean_squared_error"}, "not all finite"),
        ([[1.0, 2.0], [3.0, 2.0]], {"loss": "mean_squared_error"}, "number 1 is the same"),
    ],
)
def test_targets_that_the_loss_does_not_take_are_refused(targets, settings, match):
    with pytest.raises(ValueError, match=match):
        objective(targets, **settings)


def test_a_network_with_other_outputs_is_refused():
    with pytest.raises(ValueError, match=r"class 3 and a network of 3 outputs"):
        CrossEntropy(4).losses(LOGITS, LABELS)
    with pytest.raises(ValueError, match=r"4 weights and a network of 3 outputs"):
        CrossEntropy(3, np.ones(4)).losses(LOGITS, LABELS)
    with pytest.raises(ValueError, match=r"has 3 outputs, the targets 2 columns"):
        Multinomial((2,)).losses(LOGITS, torch.ones(4, 2))
