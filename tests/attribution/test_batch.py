import numpy as np
import pytest
import torch
from torch import nn

from attribution import GradientXInput, Prediction, Saliency
from attribution.batch import Batch, Needs, reproducible
from attribution.explain import make_batch, resolve


class _Count(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images, counts):
        ctx.counts = counts
        counts["forward"] += 1
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.counts["backward"] += 1
        return gradient, None


class _Counted(nn.Module):
    """Counts the passes that really happen."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.counts = {"forward": 0, "backward": 0}

    def forward(self, images):
        return self.network(_Count.apply(images, self.counts))


@pytest.fixture
def counted(linear):
    return _Counted(linear[0])


def a_batch(network, images, micro_batch=8, **options):
    ids = [str(n) for n in range(len(images))]
    options = {"seed": 0, "needs": Needs(gradients=True)} | options
    return make_batch(network, images, ids, micro_batch, **options)


def test_three_methods_share_one_forward_and_one_backward_per_distinct_target(counted, some_images):
    batch = a_batch(counted, some_images)
    predicted = batch.logits_NK.argmax(dim=1).numpy()[: len(some_images)]
    for requests, labels, distinct in (
        (["predicted", "label"], predicted, 1),
        (["predicted", 0, 1, 0], predicted, 3),
        (["label"], (predicted + 1) % 3, 4),
    ):
        targets = resolve(requests, ["a", "b", "c"], batch, labels)
        for method in (Prediction(), GradientXInput(), Saliency()):
            method.partial(batch, targets)
        assert counted.counts == {"forward": 1, "backward": distinct}
        assert batch.passes.forward == 8
        assert batch.passes.backward == 8 * distinct


def test_without_gradients_no_graph_is_kept(counted, some_images):
    batch = a_batch(counted, some_images, needs=Needs())
    assert not batch.logits_NK.requires_grad
    assert batch.logits_NK is not None
    assert counted.counts == {"forward": 1, "backward": 0}


def test_gradients_take_one_backward_per_distinct_class(counted, some_images, linear):
    batch = a_batch(counted, some_images)
    found = batch.gradients(some_images[:5], [2, 0, 2])
    assert counted.counts == {"forward": 1, "backward": 2}
    assert (batch.passes.forward, batch.passes.backward) == (5, 10)
    assert set(found) == {0, 2}
    for c, gradient in found.items():
        np.testing.assert_allclose(gradient, linear[1][c].expand(5, -1, -1, -1), rtol=1e-12)


def test_a_batch_is_padded_with_absent_rows_of_zeros(linear, some_images):
    present = np.array([True, False, True])
    batch = a_batch(linear[0], some_images[:3], micro_batch=5, present_N=present)
    assert len(batch) == batch.block_length == 5
    assert batch.present.tolist() == [True, False, True, False, False]
    assert batch.indices == [0, 2]
    assert not batch.images[3:].any()
    targets = resolve(["predicted", 1, "label"], ["a", "b", "c"], batch, np.array([0, 1, 2]))
    assert (targets[~batch.present] == -1).all()
    assert (targets[batch.present] >= 0).all()


def test_random_keys_name_the_object_and_the_seed(linear, some_images):
    def batch(seed, ids):
        return Batch(linear[0], some_images[:2], np.ones(2, bool), ids, seed=seed)

    keys = {
        batch(seed, ids).key(n, "noise", 3)
        for seed in (0, 1)
        for ids in (["a", "b"],)
        for n in (0, 1)
    }
    assert len(keys) == 4
    assert batch(0, ["a", "b"]).key(1, "x") == batch(0, ["b", "a"]).key(0, "x")


def test_reproducible_sets_one_thread_and_restores_everything():
    def state():
        cudnn = torch.backends.cudnn
        tf32 = torch.backends.cuda.matmul.allow_tf32
        flags = (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, tf32)
        return torch.get_num_threads(), *flags

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        before = state()
        with reproducible():
            assert state() == (1, True, False, False, False)
        assert state() == before
        with pytest.raises(ZeroDivisionError), reproducible():
            1 / 0  # noqa: B018
        assert state() == before
    finally:
        torch.set_num_threads(threads)
