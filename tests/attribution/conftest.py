"""Networks whose attributions are known."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

pytest.register_assert_rewrite("conformance.methods")


class _Formula(nn.Module):
    def __init__(self, formula: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, images: Tensor) -> Tensor:
        return self.formula(images)


@pytest.fixture(scope="session")
def formula() -> Callable[[Callable[[Tensor], Tensor]], nn.Module]:
    """Make a network of a formula from images (N, C, H, W) to logits (N, K)."""
    return _Formula


@pytest.fixture(scope="session")
def sum_of_pixels() -> nn.Module:
    """The network f(x) = (sum(x), -sum(x))."""
    return _Formula(lambda x: x.flatten(1).sum(dim=1, keepdim=True) * torch.tensor([1, -1]))


@pytest.fixture(scope="session")
def linear() -> tuple[nn.Module, Tensor]:
    """A linear network of images (N, 2, 5, 6) with 3 classes, and its weights (K, C, H, W)."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 2, 5, 6, generator=generator, dtype=torch.float64)
    network = nn.Sequential(nn.Flatten(), nn.Linear(60, 3)).double()
    with torch.no_grad():
        network[1].weight.copy_(weights.flatten(1))
        network[1].bias.copy_(torch.randn(3, generator=generator))
    return network, weights


@pytest.fixture(scope="session")
def some_images() -> Tensor:
    """Images that fit the linear network, float64 (7, 2, 5, 6)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(7, 2, 5, 6, generator=generator, dtype=torch.float64)
