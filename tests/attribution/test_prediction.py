import numpy as np
import torch

from attribution import Prediction, explain


def test_logits_and_targets_are_the_networks_own(linear, some_images):
    network, _ = linear
    labels = np.array([0, 1, 2, -1, 0, 1, 2])
    found = explain(
        network, some_images, Prediction(), targets=["predicted", "label", 2], labels=labels,
        precision="float64", micro_batch=4,
    )  # fmt: skip
    with torch.no_grad():
        logits = network(some_images).numpy()
    np.testing.assert_allclose(found["logit"], logits, rtol=1e-12)
    expected = np.stack((logits.argmax(axis=1), labels, np.full(7, 2)), axis=1)
    np.testing.assert_array_equal(found["target"], expected)
    assert found["target"].dtype == np.int32
