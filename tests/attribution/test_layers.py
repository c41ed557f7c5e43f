import numpy as np
import pytest
import torch
from torch import nn

from attribution.batch import Needs
from attribution.explain import make_batch
from attribution.layers import captured, check_layers, find_layer, layer_shapes, safe_name


class InPlace(nn.Module):
    """A layer whose output the next one overwrites, and one that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3)
        self.relu = nn.ReLU(inplace=True)
        self.unused = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.first(x))
        return self.relu(x.mul(-1)).sum(dim=(2, 3)) + x.mean(dim=(2, 3))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return InPlace().eval().requires_grad_(False)


def test_a_layer_keeps_its_output_when_the_next_works_in_place(network: nn.Module) -> None:
    x = torch.randn(3, 1, 5, 5)
    expected = network.first(x)
    before = network(x.clone())
    with captured(network, ["first"]) as outputs:
        after = network(x.clone())
    assert torch.equal(outputs["first"], expected)
    assert (expected < 0).any()
    assert torch.equal(before, after)


def test_what_has_no_single_output_is_refused(network: nn.Module) -> None:
    with pytest.raises(ValueError, match="'relu' runs more than once"):
        layer_shapes(network, (1, 5, 5), ["relu"])
    with pytest.raises(ValueError, match="'unused' does not run"):
        layer_shapes(network, (1, 5, 5), ["unused"])
    with pytest.raises(ValueError, match=r"'frist': the network has no .* did you mean first"):
        layer_shapes(network, (1, 5, 5), ["frist"])
    assert find_layer(network, "first") is network.first
    assert layer_shapes(network, (1, 5, 5), ["first"]) == {"first": (2, 3, 3)}


def test_hooks_are_removed(network: nn.Module) -> None:
    with pytest.raises(ValueError, match="relu"), captured(network, ["first", "relu"]):
        network(torch.zeros(1, 1, 5, 5))
    assert not network.first._forward_hooks
    assert not network.relu._forward_hooks


def test_one_pass_serves_logits_gradients_and_layers(network: nn.Module) -> None:
    x = torch.randn(3, 1, 5, 5)
    needs = Needs(gradients=True) | Needs(layers=("first",)) | Needs(layers=("first",))
    batch = make_batch(network, x, list("abc"), 3, seed=0, needs=needs)
    classes = np.array([0, 1, 1])
    assert torch.equal(batch.logits_NK, network(x.clone()))
    assert torch.equal(batch.activation("first"), network.first(x))
    at_images = batch.gradient_at_images(classes)
    at_layer = batch.gradient_at_images(classes, "first")
    leaf = x.clone().requires_grad_()
    score = network(leaf.clone())[torch.arange(3), torch.as_tensor(classes)].sum()
    assert torch.equal(at_images, torch.autograd.grad(score, leaf)[0])
    # The chain rule through the convolution.
    back = torch.nn.functional.conv_transpose2d(at_layer, network.first.weight)
    torch.testing.assert_close(back, at_images)
    assert (batch.passes.forward, batch.passes.backward) == (3, 3)


def test_a_result_is_computed_once(network: nn.Module) -> None:
    batch = make_batch(network, torch.zeros(1, 1, 5, 5), ["a"], 1, seed=0, needs=Needs())
    assert batch.once("x", lambda: [1]) is batch.once("x", lambda: [2])


def test_names_of_layers_are_made_safe_and_never_shared() -> None:
    assert safe_name("layer2.0.conv1") == "layer2_0_conv1"
    assert safe_name("stem") == "stem"
    check_layers(["a.b", "a.c"])
    with pytest.raises(ValueError, match=r"2 whose arrays would be called 'a_b', 'a.b' among"):
        check_layers(["a.b", "a_b"])
    with pytest.raises(ValueError, match="layers is empty"):
        check_layers([])
