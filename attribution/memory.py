"""How much memory a pass through a network takes, measured on one row."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def bytes_per_row(network: nn.Module, image_shape: tuple[int, int, int], *, gradients: bool) -> int:
    """Estimate the bytes that each row of a pass needs while it is under way.

    With gradients, a pass keeps what autograd saves for the way back, and as much again for a
    while at the widest layers; without, only a few of the widest layers' outputs at a time.

    Parameters
    ----------
    network : in evaluation mode
    image_shape : channels, height and width
    gradients : whether the pass is differentiated
    """
    own = {
        tensor.untyped_storage().data_ptr()
        for tensor in (*network.parameters(), *network.buffers())
    }
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    first = next(network.parameters(), torch.zeros(()))
    row = torch.zeros((1, *image_shape), dtype=first.dtype, device=first.device)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept):
        output = network(row.requires_grad_().clone())
    sizes = [tensor.untyped_storage().nbytes() for tensor in saved.values()]
    widest = max([*sizes, row.nbytes])
    del output
    return sum(sizes) + 3 * widest if gradients else 4 * widest
