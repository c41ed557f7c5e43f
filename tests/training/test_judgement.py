from __future__ import annotations

import json

import numpy as np
import pytest

from training.calibration import fit_temperature, probabilities_of
from training.judgement import judge_classes, judge_numbers
from training.metrics import bootstrap, roc_auc


@pytest.fixture
def judged():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 120)
    logits = random.normal(size=(120, 3)) + 2.0 * np.eye(3)[labels]
    return labels, logits, judge_classes(labels, logits, ("a", "b", "none"), 1.5, resamples=60)


def test_every_number_is_the_metric_with_its_interval(judged):
    labels, logits, found = judged
    p = probabilities_of(logits, 1.5)
    interval = bootstrap(roc_auc, labels == 1, p[:, 1], resamples=60)
    assert found["roc_auc"]["b"] == {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
    }
    share = np.trace(found["confusion"]) / 120
    assert found["accuracy"]["value"] == share
    assert found["accuracy"]["low"] < share < found["accuracy"]["high"]
    assert found["temperature"] == 1.5


def test_what_is_not_defined_is_none_and_all_is_json(judged):
    _, _, found = judged
    assert found["roc_auc"]["none"] == {"value": None, "low": None, "high": None}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_fitted_temperature_lowers_the_likelihood_s_loss(judged):
    labels, logits, _ = judged
    losses = [
        judge_classes(labels, logits, "abc", t, resamples=1)["negative_log_likelihood"]["value"]
        for t in (0.5, fit_temperature(labels, logits), 4.0)
    ]
    assert losses[1] == min(losses)


def test_numbers_are_judged_one_by_one():
    wanted = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    found = judge_numbers(wanted, wanted + np.array([1.0, 0.0]), ("z", "mass"), resamples=20)
    assert found["root_mean_squared_error"]["z"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found["r_squared"]["z"]["value"] == pytest.approx(1 - 3 / 8)
    assert found["r_squared"]["mass"]["value"] is None
    assert found["objects"] == 3
