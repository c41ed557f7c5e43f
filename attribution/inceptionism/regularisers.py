"""What an image should be besides telling of a class: faint, and smooth.

Shape suffixes: R rows (images), C channels, H height, W width.
"""

from __future__ import annotations

from torch import Tensor


def squared_norm(images_RCHW: Tensor) -> Tensor:
    """Return the sum of squared pixels of each image, (R,) (Simonyan et al. 2014, eq. 1)."""
    return images_RCHW.square().flatten(1).sum(dim=1)


def total_variation(images_RCHW: Tensor) -> Tensor:
    """Return the sum of absolute differences of neighbouring pixels of each image, (R,).

    The anisotropic form of Rudin, Osher & Fatemi 1992; used so by Mahendran & Vedaldi 2015.
    """
    rows = images_RCHW.diff(dim=2).abs().flatten(1).sum(dim=1)
    columns = images_RCHW.diff(dim=3).abs().flatten(1).sum(dim=1)
    return rows + columns
