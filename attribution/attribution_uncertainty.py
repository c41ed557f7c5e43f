"""How sure an attribution is: its mean and spread over the sub-networks of Monte-Carlo dropout.

Bykov et al. 2020, "How Much Can I Trust You? Quantifying Uncertainties in Explaining Neural
Networks".

Shape suffixes: N objects, P parts (dropout samples), T targets, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import nn
from typing_extensions import override

from .arrays import ArraySpec, Layout
from .batch import Batch, Needs
from .dropout import DropoutSamples
from .dropout_masks import hashed_dropout
from .gradients import GradientXInput, Saliency
from .integrated_gradients import IntegratedGradients
from .method import Method, Targets
from .partials import Array, Rule, add

Inner = Literal["gradient_x_input", "saliency", "integrated_gradients"]


@dataclass(frozen=True)
class AttributionUncertainty(DropoutSamples):
    """Mean and standard deviation of a map over random sub-networks, pixel by pixel.

    Targets are classes of the network without dropout. Maps are summed over the input's channels
    before their spread is taken. Standard deviations are those of the samples (divided by their
    number).
    """

    of: Inner | Method = "gradient_x_input"
    """The method that makes the maps; in Python also any other that makes a map per pixel."""
    steps: int = 50
    """Nodes on the path of integrated_gradients, 2 or more."""

    name: ClassVar[str] = "attribution_uncertainty"
    rules: ClassVar[Mapping[str, Rule]] = {"map": add, "squared": add}
    job_types: ClassVar[Mapping[str, Any]] = {"of": Inner}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.of, Method) and self.of not in get_args(Inner):
            raise ValueError(f"of is {self.of!r}; choose one of {', '.join(get_args(Inner))}")
        if self.steps < 2:
            raise ValueError(f"steps is {self.steps}; the path needs 2 nodes or more")

    @property
    def inner(self) -> Method:
        """The method that makes the maps."""
        if isinstance(self.of, Method):
            return self.of
        if self.of == "integrated_gradients":
            return IntegratedGradients(self.steps)
        return GradientXInput() if self.of == "gradient_x_input" else Saliency()

    @property
    @override
    def needs(self) -> Needs:
        # The images' own pass is without dropout: it only tells the layers' shapes.
        return Needs(layers=self.inner.needs.layers)

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        shape = (*targets_NT.shape, *batch.images.shape[2:])
        terms = {"map": np.zeros(shape), "squared": np.zeros(shape)}
        for n in batch.indices:
            for some in self._together(batch, targets_NT, parts):
                map_PTHW = self._maps(batch, n, targets_NT[n], some)
                terms["map"][n] += map_PTHW.sum(axis=0)
                terms["squared"][n] += np.square(map_PTHW).sum(axis=0)
        return terms

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        mean_NTHW = total["map"] / self.samples
        variance_NTHW = total["squared"] / self.samples - np.square(mean_NTHW)
        return {
            "attribution": mean_NTHW,
            "attribution_std": np.sqrt(np.maximum(variance_NTHW, 0)),
        }

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        inner = self.inner.arrays(layout)[0]
        described = {
            "attribution": ("mean", "E A"),
            "attribution_std": ("standard deviation", "sqrt(E A^2 - (E A)^2)"),
        }
        return tuple(
            ArraySpec(
                name,
                ("target", "y", "x"),
                (layout.targets, *layout.image_shape[1:]),
                f"{what} over sub-networks: {inner.long_name}",
                units=inner.units,
                convention=f"Bykov 2020; {formula}, A summed over channels: {inner.convention}",
                # Rounding goes by the layout's dimensions, and these maps have no channels.
                is_map=layout.channels == "sum",
                attributes={
                    **inner.attributes,
                    **self.parameters,
                    "of": self.inner.name,
                    "channels": "sum",
                },
            )
            for name, (what, formula) in described.items()
        )

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        forward, backward = self.inner.passes(layout)
        return (self.samples * (1 + forward), self.samples * backward)

    @override
    def check(self, network: nn.Module, layout: Layout) -> None:
        super().check(network, layout)
        self.inner.check(network, layout)
        if self.inner.arrays(layout)[0].name not in ("attribution", "grid"):
            raise ValueError(f"of: {self.inner.name} makes no map per pixel; choose one that does")

    @override
    def pixel_map(self, arrays: Mapping[str, Array], layout: Layout) -> Array | None:
        return arrays["attribution"]

    def _together(self, batch: Batch, targets_NT: Targets, parts: range) -> Iterator[range]:
        """Cut a block into samples whose maps come from the same passes.

        A method without passes of its own reads the pass over the images, where each row has masks
        of its own. In the passes of any other, all rows are of one object and of one sample.
        """
        own_passes, _ = self.inner.passes(self._layout(batch, targets_NT[0]))
        length = 1 if own_passes else len(parts)
        for start in range(parts.start, parts.stop, length):
            yield range(start, start + length)

    def _maps(
        self, batch: Batch, n: int, targets_T: NDArray[np.int64], parts: range
    ) -> NDArray[np.float64]:
        """Make the maps of some samples of object ``n``: (P, T, H, W)."""
        rows = _Repeated(batch, n, len(parts), self.inner.needs)
        targets_PT = np.repeat(targets_T[None], len(parts), axis=0)
        with hashed_dropout(batch.network, self.keys(batch, n, parts), self.inject):
            partial = self.inner.partial(rows, targets_PT)
            layout = self._layout(rows, targets_T)
            total = partial.total(self.inner.blocks(layout.image_shape, rows.block_length))
            arrays = self.inner.finish(total, rows, targets_PT, layout)
            found = self.inner.pixel_map(arrays, layout)
        assert found is not None, "check refuses methods without a map"
        return found.astype(np.float64)

    def _layout(self, batch: Batch, targets_T: NDArray[np.int64]) -> Layout:
        layers = {name: tuple(batch.activation(name).shape[1:]) for name in self.inner.needs.layers}
        _, c, h, w = batch.images.shape
        return Layout((c, h, w), batch.logits_NK.shape[1], len(targets_T), "sum", layers)


class _Repeated(Batch):
    """One object of a batch some times over; passes are as long as the batch's."""

    def __init__(self, batch: Batch, n: int, count: int, needs: Needs) -> None:
        super().__init__(
            batch.network,
            batch.images[n].repeat(count, 1, 1, 1),
            np.ones(count, dtype=bool),
            [batch.ids[n]] * count,
            seed=batch.seed,
            needs=needs,
        )
        self.passes = batch.passes
        self._length = batch.block_length

    @property
    @override
    def block_length(self) -> int:
        return self._length
