import numpy as np
import pytest

from attribution.targets import resolve_targets, target_names

CLASSES = ["smooth", "featured", "artifact"]
PREDICTED = np.array([2, 0, 1])
LABELS = np.array([1, -1, 1])


@pytest.mark.parametrize(
    ("requests", "names", "columns"),
    [
        (["predicted"], ["predicted"], [[2, 0, 1]]),
        (["label"], ["label"], [[1, -1, 1]]),
        (["all"], CLASSES, [[0] * 3, [1] * 3, [2] * 3]),
        ([1], ["featured"], [[1] * 3]),
        (["artifact", "predicted"], ["artifact", "predicted"], [[2] * 3, [2, 0, 1]]),
        (["label", 0], ["label", "smooth"], [[1, -1, 1], [0] * 3]),
    ],
)
def test_requests_become_named_columns(requests, names, columns):
    assert target_names(requests, CLASSES) == names
    targets = resolve_targets(requests, CLASSES, PREDICTED, LABELS)
    assert targets.dtype == np.int64
    np.testing.assert_array_equal(targets.T, columns)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (["spiral"], "target 'spiral' is neither predicted, label nor all, nor one of the classes "
         "smooth, featured, artifact"),
        ([3], "target 3 is out of range: the network has classes 0 to 2"),
        ([-1], "target -1 is out of range: the network has classes 0 to 2"),
        ([], "targets is empty; name predicted, label, all or a class"),
    ],
)  # fmt: skip
def test_what_cannot_be_explained_is_refused(requests, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole text is compared
        target_names(requests, CLASSES)
    assert str(refusal.value) == message
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        resolve_targets(requests, CLASSES, PREDICTED, LABELS)
    assert str(refusal.value) == message


def test_a_class_that_is_named_like_a_role_or_twice_is_still_itself():
    classes = ["label", "bar", "bar", "predicted"]
    targets = resolve_targets(["all", 1, "label"], classes, PREDICTED, LABELS)
    np.testing.assert_array_equal(targets, [[0, 1, 2, 3, 1, label] for label in LABELS])
