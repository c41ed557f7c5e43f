from __future__ import annotations

import numpy as np
import pytest

from training.metrics import accuracy, confusion_matrix, per_class_recall

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
