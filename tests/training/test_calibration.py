from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from training.calibration import (
    expected_calibration_error,
    fit_temperature,
    probabilities_of,
    reliability,
)


@pytest.fixture
def logits_and_labels():
    """Draw labels from the softmax of logits, and make the logits three times too sure."""
    random = np.random.default_rng(0)
    logits = random.normal(0.0, 1.5, (5000, 4))
    labels = (probabilities_of(logits).cumsum(1) > random.random((5000, 1))).argmax(1)
    return 3.0 * logits, labels


def test_bins_by_hand():
    """Of three at 0.8 two are right: |2/3 - 0.8|; the one at 0.6 is wrong: 0.6."""
    probabilities = np.array([[0.8, 0.2], [0.2, 0.8], [0.8, 0.2], [0.6, 0.4]])
    labels = np.array([0, 1, 1, 1])
    found = reliability(labels, probabilities, bins=5)
    np.testing.assert_array_equal(found.objects, [0, 0, 1, 3, 0])
    np.testing.assert_allclose(found.confidence[2:4], [0.6, 0.8])
    np.testing.assert_allclose(found.accuracy[2:4], [0.0, 2 / 3])
    assert np.isnan(found.accuracy[0])
    assert found.expected_error == pytest.approx((0.6 + 3 * abs(2 / 3 - 0.8)) / 4)


def test_a_sure_network_is_in_the_last_bin():
    found = reliability(np.array([0, 1]), np.eye(2))
    assert found.objects[-1] == 2
    assert found.expected_error == 0.0


def test_the_expected_error_is_torchmetrics_s(logits_and_labels):
    logits, labels = logits_and_labels
    probabilities = probabilities_of(logits)
    theirs = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), 4, n_bins=15
    )
    assert expected_calibration_error(labels, probabilities) == pytest.approx(
        float(theirs), abs=1e-6
    )


def test_the_temperature_undoes_what_made_the_network_too_sure(logits_and_labels):
    logits, labels = logits_and_labels
    temperature = fit_temperature(labels, logits)
    assert temperature == pytest.approx(3.0, rel=0.05)
    before = expected_calibration_error(labels, probabilities_of(logits))
    after = expected_calibration_error(labels, probabilities_of(logits, temperature))
    assert after < 0.02 < 0.1 < before


def test_the_temperature_is_exact_where_it_can_be_known():
    """Two classes, logits +-1, a share q right: softmax must say q, so 2 / T = log(q / (1 - q))."""
    labels = np.array([0] * 9 + [1])
    logits = np.tile([1.0, -1.0], (10, 1))
    assert fit_temperature(labels, logits) == pytest.approx(2.0 / np.log(9.0), rel=1e-12)
    assert fit_temperature(labels, 1000.0 * logits) == pytest.approx(1000 * 2.0 / np.log(9.0))
    shifted = logits + np.arange(10.0)[:, None]
    assert fit_temperature(labels, shifted) == pytest.approx(2.0 / np.log(9.0), rel=1e-9)


def test_the_temperature_is_the_optimum_of_lbfgs(logits_and_labels):
    logits, labels = map(torch.from_numpy, logits_and_labels)
    inverse = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([inverse], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits * inverse, labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert fit_temperature(*reversed(logits_and_labels)) == pytest.approx(
        1.0 / float(inverse.detach()), rel=1e-5
    )


def test_without_an_optimum_the_temperature_ends_at_its_limits():
    logits = np.array([[2.0, 0.0], [0.0, 2.0]])
    assert fit_temperature(np.array([0, 1]), logits) == 1e-3
    assert fit_temperature(np.array([1, 0]), logits) == 1e3


@pytest.mark.parametrize("logits", [np.zeros((0, 2)), np.array([[np.nan, 0.0]])])
def test_no_temperature_without_finite_logits(logits):
    with pytest.raises(ValueError, match="give one or more, with finite logits"):
        fit_temperature(np.zeros(len(logits), int), logits)
