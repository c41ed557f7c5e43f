import torch
from torch import nn

from attribution.memory import bytes_per_row


def test_a_differentiated_row_keeps_every_saved_activation() -> None:
    # Saved for the way back: the row itself (convolution) and 8 ReLU outputs of the same size.
    convolutions = [nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()) for _ in range(8)]
    network = nn.Sequential(*convolutions).eval().requires_grad_(False)
    plane = 16 * 16 * 4
    kept = bytes_per_row(network, (1, 16, 16), gradients=True)
    assert kept == 9 * plane + 3 * plane
    assert bytes_per_row(network, (1, 16, 16), gradients=False) == 4 * plane


def test_memory_grows_with_the_image_and_the_precision() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    small, large = (bytes_per_row(network, (3, s, s), gradients=True) for s in (16, 32))
    assert 3.5 < large / small < 5
    double = bytes_per_row(network.to(torch.float64), (3, 16, 16), gradients=True)
    assert double == 2 * small
