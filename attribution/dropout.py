"""Monte-Carlo dropout: how sure the network is, and whether more data would help.

Gal & Ghahramani 2016, "Dropout as a Bayesian Approximation"; mutual information as in Houlsby et
al. 2011 (BALD).

Shape suffixes: N objects, P parts (dropout samples), K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from .arrays import Layout
from .batch import Batch
from .dropout_masks import dropout_sites, hashed_dropout
from .dropout_prefix import Split, split
from .method import Method
from .randomness import key
from .sampled_predictions import SampledPredictions


@dataclass(frozen=True)
class DropoutSamples(Method):
    """What methods over random sub-networks share; batch normalisation stays in evaluation mode.

    Sample s of an object is the same sub-network in all of them, so their results belong together.
    """

    samples: int = 100
    """Number of sub-networks, 2 or more."""
    masks: Literal["per_object", "consistent"] = "per_object"
    """per_object draws new masks for each object; consistent uses the same sub-network for every
    object, so that objects can be compared within a sample."""
    inject: float | None = None
    """For a network without dropout: drop the inputs of its last linear layer with this
    probability."""

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise ValueError(f"samples is {self.samples}; a spread needs 2 samples or more")
        if self.masks not in ("per_object", "consistent"):
            raise ValueError(f"masks is {self.masks!r}; choose per_object or consistent")
        if self.inject is not None and not 0 < self.inject < 1:
            raise ValueError(f"inject is {self.inject}; choose a probability between 0 and 1")

    @override
    def parts(self, image_shape: tuple[int, int, int]) -> int:
        return self.samples

    @override
    def check(self, network: nn.Module, layout: Layout) -> None:
        first = next(network.parameters(), torch.zeros(()))
        row = torch.zeros((1, *layout.image_shape), dtype=first.dtype, device=first.device)
        with torch.no_grad():
            split(network, row, dropout_sites(network, self.inject))

    @property
    def parameters(self) -> dict[str, Any]:
        """How the samples were drawn, for the arrays' attributes."""
        injected = {} if self.inject is None else {"inject": self.inject}
        return {"samples": self.samples, "masks": self.masks, **injected}

    def keys(self, batch: Batch, n: int, parts: range) -> list[int]:
        """Key the masks of some samples of object ``n``."""
        if self.masks == "consistent":
            return [key(batch.seed, MCDropout.name, sample) for sample in parts]
        return [batch.key(n, MCDropout.name, sample) for sample in parts]

    def split(self, batch: Batch) -> Split:
        """Run the images as far as the first dropout, once per batch."""

        def compute() -> Split:
            batch.passes.forward += len(batch)
            with torch.no_grad():
                sites = dropout_sites(batch.network, self.inject)
                return split(batch.network, batch.images, sites)

        return batch.once((DropoutSamples, self.inject), compute)

    def features(self, batch: Batch, n: int, parts: range) -> Tensor:
        """Repeat for some samples what enters the first dropout for object ``n``: (P, ...)."""
        features = self.split(batch).features[n]
        # A copy of its own for each row, since networks work in place.
        return features.expand(len(parts), *features.shape).clone()

    def sampled_logits(self, batch: Batch, n: int, parts: range, features_P: Tensor) -> Tensor:
        """Run some samples of object ``n`` from their features on: logits (P, K)."""
        batch.passes.forward += len(parts)
        with hashed_dropout(batch.network, self.keys(batch, n, parts), self.inject):
            return self.split(batch).logits(features_P)


@dataclass(frozen=True)
class MCDropout(DropoutSamples, SampledPredictions):
    """Predictive statistics over random sub-networks."""

    name: ClassVar[str] = "mc_dropout"
    source: ClassVar[str] = "Gal & Ghahramani 2016"
    over: ClassVar[str] = "sub-networks"

    def __post_init__(self) -> None:
        DropoutSamples.__post_init__(self)
        SampledPredictions.__post_init__(self)

    @override
    def sample(self, batch: Batch, n: int, parts: range) -> Tensor:
        with torch.inference_mode():
            return self.sampled_logits(batch, n, parts, self.features(batch, n, parts))

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        # One more as far as the first dropout; the samples run from there on.
        return (self.samples + 1.0, 0.0)

    @override
    def check(self, network: nn.Module, layout: Layout) -> None:
        DropoutSamples.check(self, network, layout)
        SampledPredictions.check(self, network, layout)
