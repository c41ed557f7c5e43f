"""How far one survey is from another, as a network sees them, whatever their labels are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .metrics import Floats, Interval, bootstrap, roc_auc

_FOLDS = 5
FEWEST = _FOLDS
"""Objects of each survey that there must be."""
_SHRINKAGE = 0.1
"""How much of the covariance is replaced by a multiple of the identity."""


def domain_auc(
    ours_NF: Floats, theirs_MF: Floats, seed: int = 0, resamples: int = 1000
) -> Interval:
    """Return how well a linear classifier tells features of one survey from those of another.

    It is the area under the ROC curve: 0.5 if nothing tells them apart, 1 if every object gives its
    survey away. The classifier (Fisher 1936, with a shrunken covariance) is asked about objects
    that it did not learn from. Where networks trained on one survey fail on the other, it tends to
    be high (Ben-David et al. 2010, section 5).

    Parameters
    ----------
    ours_NF, theirs_MF
        Features of objects: what the last layer of the network sees.
    seed
        Decides the folds and the resamples of the 95 % bootstrap interval.
    resamples
        Of the interval.

    Raises
    ------
    ValueError
        If a survey has fewer than 5 objects.
    """
    if min(len(ours_NF), len(theirs_MF)) < FEWEST:
        raise ValueError(
            f"domain AUC: {len(ours_NF)} and {len(theirs_MF)} objects are too few; give {FEWEST} "
            "or more of each survey"
        )
    features = np.concatenate([ours_NF, theirs_MF]).astype(np.float64)
    is_theirs = np.arange(len(features)) >= len(ours_NF)
    random = np.random.Generator(np.random.Philox(key=seed))
    fold = np.empty(len(features), np.int64)
    for part in (~is_theirs, is_theirs):
        fold[part] = random.permutation(np.arange(part.sum()) % _FOLDS)
    scores = np.empty(len(features))
    for number in range(_FOLDS):
        asked = fold == number
        scores[asked] = _scores(features[~asked], is_theirs[~asked], features[asked])
    return bootstrap(roc_auc, is_theirs, scores, seed=seed, resamples=resamples)


def _scores(features: Floats, is_theirs: npt.NDArray[np.bool_], asked: Floats) -> Floats:
    """Score objects by Fisher's discriminant of others; higher is more like theirs."""
    spread = features.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    means = [features[part].mean(axis=0) for part in (~is_theirs, is_theirs)]
    centred = (features - np.where(is_theirs[:, None], means[1], means[0])) / scale
    covariance = (1 - _SHRINKAGE) * centred.T @ centred / len(centred)
    covariance[np.diag_indices_from(covariance)] += _SHRINKAGE
    direction = np.linalg.solve(covariance, (means[1] - means[0]) / scale)
    # The middle of both means is 0, so that scores of different folds can be compared.
    found: Floats = (asked - (means[0] + means[1]) / 2) / scale @ direction
    return found
