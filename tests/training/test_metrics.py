from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as peers

from training.metrics import (
    accuracy,
    average_precision,
    balanced_accuracy,
    bootstrap,
    brier_score,
    confusion_matrix,
    negative_log_likelihood,
    per_class_recall,
    r_squared,
    roc_auc,
    root_mean_squared_error,
)

LABELS = np.array([0, 0, 0, 1, 1])
PREDICTED = np.array([0, 0, 1, 1, 2])


def test_by_hand():
    confusion = confusion_matrix(LABELS, PREDICTED, 3)
    np.testing.assert_array_equal(confusion, [[2, 1, 0], [0, 1, 1], [0, 0, 0]])
    np.testing.assert_allclose(per_class_recall(confusion), [2 / 3, 1 / 2, np.nan])
    assert accuracy(LABELS, PREDICTED) == 0.6


def test_no_objects():
    none = np.array([], dtype=np.int64)
    assert np.isnan(accuracy(none, none))
    assert confusion_matrix(none, none, 2).sum() == 0


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_class_outside_the_list_is_refused(wrong):
    with pytest.raises(ValueError, match=r"leave 0\.\.2; check the class list"):
        confusion_matrix(LABELS, np.array([0, 0, 1, 1, wrong]), 3)


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        accuracy(LABELS, PREDICTED[:3])


def test_balanced_accuracy_is_the_mean_recall():
    assert balanced_accuracy(LABELS, PREDICTED) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert np.isnan(balanced_accuracy(LABELS[:0], LABELS[:0]))


def test_areas_by_hand():
    positive = np.array([True, False, True, False])
    assert roc_auc(positive, np.array([4.0, 3.0, 2.0, 1.0])) == 0.75
    assert roc_auc(positive, np.zeros(4)) == 0.5
    assert average_precision(positive, np.array([4.0, 3.0, 2.0, 1.0])) == pytest.approx(5 / 6)
    assert average_precision(positive, np.zeros(4)) == 0.5
    assert np.isnan(roc_auc(np.ones(3, bool), np.arange(3.0)))
    assert np.isnan(average_precision(np.zeros(3, bool), np.arange(3.0)))


def test_a_sure_and_right_prediction_has_no_error():
    truth = np.array([0, 2])
    sure = np.eye(3)[truth]
    assert brier_score(truth, sure) == negative_log_likelihood(truth, sure) == 0.0
    assert brier_score(truth, np.full((2, 3), 1 / 3)) == pytest.approx(2 / 3)
    assert negative_log_likelihood(truth, np.full((2, 3), 1 / 3)) == pytest.approx(np.log(3))
    assert negative_log_likelihood(np.array([1, 1]), sure) == np.inf


@pytest.mark.parametrize("digits", [1, 8])
def test_peers_agree(digits):
    """scikit-learn, with ties among the scores and without."""
    random = np.random.default_rng(digits)
    labels = random.integers(0, 3, 200)
    raw = random.normal(size=(200, 3)) + 1.5 * np.eye(3)[labels]
    probabilities = np.round(np.exp(raw) / np.exp(raw).sum(1, keepdims=True), digits) + 1e-3
    probabilities /= probabilities.sum(1, keepdims=True)
    predicted = probabilities.argmax(1)
    assert balanced_accuracy(labels, predicted) == pytest.approx(
        peers.balanced_accuracy_score(labels, predicted)
    )
    np.testing.assert_array_equal(
        confusion_matrix(labels, predicted, 3), peers.confusion_matrix(labels, predicted)
    )
    assert negative_log_likelihood(labels, probabilities) == pytest.approx(
        peers.log_loss(labels, probabilities)
    )
    scores = np.round(raw[:, 1], digits)
    for ours, theirs in (
        (roc_auc, peers.roc_auc_score),
        (average_precision, peers.average_precision_score),
    ):
        assert ours(labels == 1, scores) == pytest.approx(theirs(labels == 1, scores))
    half = np.stack([1 - probabilities[:, 0], probabilities[:, 0]], 1)
    assert brier_score((labels == 0).astype(int), half) == pytest.approx(
        2 * peers.brier_score_loss(labels == 0, probabilities[:, 0])
    )
    assert r_squared(raw[:, 0], raw[:, 1]) == pytest.approx(peers.r2_score(raw[:, 0], raw[:, 1]))
    assert root_mean_squared_error(raw[:, 0], raw[:, 1]) == pytest.approx(
        peers.root_mean_squared_error(raw[:, 0], raw[:, 1])
    )


def test_numbers_that_do_not_vary_have_no_share_to_explain():
    assert np.isnan(r_squared(np.ones(3), np.zeros(3)))


def test_the_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval = bootstrap(lambda x: float(x.mean()), values, seed=1)
    half = 1.96 * values.std() / 20.0
    assert interval.value == values.mean()
    assert interval.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.15 * half)
    assert bootstrap(lambda x: float(x.mean()), values, seed=1) == interval
    assert bootstrap(lambda x: float(x.mean()), values, seed=2) != interval
    narrow = bootstrap(lambda x: float(x.mean()), values, seed=1, level=0.5)
    assert interval.low < narrow.low < narrow.high < interval.high


def test_resamples_without_a_value_are_left_out():
    rare = np.array([True] + [False] * 9)
    interval = bootstrap(roc_auc, rare, np.arange(10.0), resamples=100)
    assert interval.value == interval.low == 0.0
    never = bootstrap(roc_auc, np.zeros(4, bool), np.arange(4.0), resamples=10)
    assert np.isnan([never.value, never.low, never.high]).all()


def test_arrays_of_different_lengths_are_no_sample():
    with pytest.raises(ValueError, match=r"arrays of \[3, 2\] objects"):
        bootstrap(accuracy, np.zeros(3, int), np.zeros(2, int))
