"""The one shape that every attribution method has.

A method is its neutral element (an empty `Partial`), the terms of a block of parts, the rules by
which terms merge, and `finish`. The parts axis (occlusion windows, path steps, dropout samples) is
what can be spread over a cluster; it is cut at multiples of the block length, and any cut gives the
same bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from .arrays import ArraySpec, Layout
from .batch import Batch, Needs
from .partials import Array, Partial, Rule

Targets = NDArray[np.int64]
"""Class index per object and target, shape (N, T); -1 where an object has no such target."""


class Method(ABC):
    """An attribution method with its parameters; subclasses are frozen dataclasses."""

    name: ClassVar[str]
    """Name in job files and of the group in the store."""
    rules: ClassVar[Mapping[str, Rule]]
    """How each of the terms merges."""
    targeted: ClassVar[bool] = True
    """Whether results depend on a target class."""
    job_types: ClassVar[Mapping[str, Any]] = {}
    """Types of parameters in a job file, where they are not those of the dataclass."""

    @property
    def needs(self) -> Needs:
        """What this method reads from the pass over the images."""
        return Needs()

    @property
    def coordinates(self) -> Mapping[str, tuple[str, ...]]:
        """Names along dimensions of the result arrays, by dimension."""
        return {}

    def bound(self, methods: Mapping[str, Method]) -> Method:
        """Return this method with the methods of its job in the place of their names.

        Raises
        ------
        ValueError
            If a method that it names is not there.
        """
        return self

    def parts(self, image_shape: tuple[int, int, int]) -> int:
        """Count the parts that sum or join to the result for an image of this shape."""
        return 1

    @abstractmethod
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        """Compute the terms of one block of parts; rows of absent objects are ignored."""

    @abstractmethod
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        """Turn the merged terms of all parts into the result arrays, object first."""

    @abstractmethod
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        """Describe the result arrays."""

    @abstractmethod
    def passes(self, layout: Layout) -> tuple[float, float]:
        """Count forward and backward passes per object, the shared ones at the image aside."""

    def check(self, network: nn.Module, layout: Layout) -> None:  # noqa: B027
        """Refuse a network or an image for which the result would be meaningless.

        Raises
        ------
        ValueError
            With the reason and the cure.
        """

    def pixel_map(self, arrays: Mapping[str, Array], layout: Layout) -> Array | None:
        """Return the attribution per pixel, (N, T, H, W), if the method has one."""
        attribution = arrays.get("attribution")
        if attribution is None or layout.channels == "sum":
            return attribution
        summed: Array = attribution.sum(axis=2)
        return summed

    def blocks(self, image_shape: tuple[int, int, int], block_length: int) -> int:
        """Count the blocks that the parts axis has; cuts lie between blocks."""
        return -(-self.parts(image_shape) // block_length)

    def partial(self, batch: Batch, targets_NT: Targets, blocks: range | None = None) -> Partial:
        """Compute the terms of a contiguous range of blocks, by default of all.

        Parameters
        ----------
        batch : the objects
        targets_NT : class index per object and target
        blocks : numbers of the blocks; block b holds the parts from ``b * batch.block_length``
        """
        image_shape = (batch.images.shape[1], batch.images.shape[2], batch.images.shape[3])
        length, parts = batch.block_length, self.parts(image_shape)
        if blocks is None:
            blocks = range(self.blocks(image_shape, length))
        partial = Partial(self.rules)
        for block in blocks:
            span = range(block * length, min((block + 1) * length, parts))
            terms = self.terms(batch, targets_NT, span)
            partial = partial.merge(Partial.of_block(self.rules, block, terms))
        return partial
