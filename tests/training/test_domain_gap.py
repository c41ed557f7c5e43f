from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from training.domain_gap import domain_auc


def draw(shift, objects=600, features=8, seed=0):
    random = np.random.default_rng(seed)
    ours = random.standard_normal((objects, features))
    theirs = random.standard_normal((objects, features))
    theirs[:, 0] += shift
    return ours, theirs


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0])
def test_two_gaussians_have_the_auc_of_their_distance(shift):
    found = domain_auc(*draw(shift, 3000))
    expected = 0.5 * (1 + math.erf(shift / 2))  # Phi(d / sqrt(2))
    assert found.value == pytest.approx(expected, abs=0.015)
    assert found.low < expected < found.high


def test_surveys_alike_can_t_be_told_apart_by_what_the_classifier_learned_by_heart():
    # As many features as objects: on its own objects the classifier would be perfect.
    found = [domain_auc(*draw(0.0, 60, 120, seed), resamples=1).value for seed in range(30)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)


def test_scikit_learn_finds_the_same():
    ours, theirs = draw(0.8, 400)
    mixing = np.random.default_rng(1).standard_normal((8, 8))
    features, is_theirs = np.concatenate([ours, theirs]) @ mixing, np.repeat([0, 1], 400)
    scores = cross_val_predict(
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1),
        features / features.std(axis=0),
        is_theirs,
        cv=StratifiedKFold(5, shuffle=True, random_state=0),
        method="decision_function",
    )
    found = domain_auc(features[:400], features[400:])
    assert found.value == pytest.approx(roc_auc_score(is_theirs, scores), abs=0.01)


def test_units_and_constant_features_do_not_matter():
    ours, theirs = draw(1.0)
    scaled = [
        np.hstack([part * [1e-6, 1e6, *[1] * 6], np.zeros((len(part), 1))])
        for part in (ours, theirs)
    ]
    assert domain_auc(*scaled).value == pytest.approx(domain_auc(ours, theirs).value, abs=1e-6)


def test_too_few_objects_are_refused():
    with pytest.raises(ValueError, match="4 and 10 objects are too few; give 5 or more"):
        domain_auc(np.zeros((4, 2)), np.zeros((10, 2)))
