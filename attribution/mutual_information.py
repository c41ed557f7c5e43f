"""Which pixels make the sub-networks disagree: the gradient of the mutual information.

I = H[E p] - E H[p] over the sub-networks of Monte-Carlo dropout (Houlsby et al. 2011, BALD). With
p_t the probabilities of sample t and m their mean, the terms of dH that hold sum(dp) = 0 vanish:

    dI/dx = 1/T sum_t sum_k (log p_tk - log m_k) dp_tk/dx

so m comes first, from a sweep of forward passes; the gradients then add up sample by sample.

Shape suffixes: N objects, P parts (dropout samples), T targets, K classes, C channels, H height,
W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from .arrays import ArraySpec, Layout
from .batch import Batch
from .dropout import DropoutSamples, MCDropout
from .dropout_masks import dropout_sites
from .dropout_prefix import split
from .explain import whole
from .method import Targets
from .partials import Array, Rule, add


@dataclass(frozen=True)
class MutualInformationAttribution(DropoutSamples):
    """Attribution of the mutual information of the class and the sub-network, in nats.

    Positive is evidence that the sub-networks disagree about. The mutual information belongs to no
    class, so all targets have the same map.
    """

    multiply: Literal["input", "none"] = "input"
    """input multiplies the gradient by the image, none leaves the gradient."""

    name: ClassVar[str] = "mutual_information_attribution"
    rules: ClassVar[Mapping[str, Rule]] = {"gradient": add}
    targeted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.multiply not in ("input", "none"):
            raise ValueError(f"multiply is {self.multiply!r}; choose input or none")

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        """Differentiate by what enters the first dropout; `finish` goes on to the pixels."""
        mean_NK = self._mean_probabilities(batch, targets_NT)
        gradient_N = np.zeros(self.split(batch).features.shape)
        for n in batch.indices:
            with torch.enable_grad():
                features_P = self.features(batch, n, parts).requires_grad_()
                logits_PK = self.sampled_logits(batch, n, parts, features_P.clone())
            upstream_PK = _upstream(logits_PK.detach().double(), mean_NK[n]) / self.samples
            (found_P,) = torch.autograd.grad(logits_PK, features_P, upstream_PK.to(logits_PK))
            batch.passes.backward += len(parts)
            gradient_N[n] = found_P.double().sum(dim=0).cpu().numpy()
        return {"gradient": gradient_N}

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        images_NCHW = batch.images.detach().clone().requires_grad_()
        with torch.enable_grad():
            sites = dropout_sites(batch.network, self.inject)
            features_N = split(batch.network, images_NCHW, sites).features
            upstream_N = torch.as_tensor(total["gradient"]).to(features_N)
            (gradient_NCHW,) = torch.autograd.grad(features_N, images_NCHW, upstream_N)
        batch.passes.forward += len(batch)
        batch.passes.backward += len(batch)
        factor_NCHW = batch.images if self.multiply == "input" else torch.ones_like(batch.images)
        map_NCHW = (gradient_NCHW.double() * factor_NCHW.double()).cpu().numpy()
        return {"attribution": layout.reduce(np.stack([map_NCHW] * layout.targets, axis=1))}

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        by_input = self.multiply == "input"
        return (
            ArraySpec(
                "attribution",
                layout.map_dims,
                layout.map_shape,
                f"gradient {'x input ' if by_input else ''}of the mutual information",
                units="nat" if by_input else "nat per input unit",
                convention=f"{'x * ' if by_input else ''}dI/dx, I = H[E p] - E H[p] (BALD, Houlsby "
                "2011) over sub-networks, signed; the same for every target",
                is_map=True,
                attributes={
                    **self.parameters,
                    "multiply": self.multiply,
                    "channels": layout.channels,
                },
            ),
        )

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        # The sweep for the mean, and one pass as far as the first dropout that both share. The way
        # from there to the pixels, once per object, is in `finish`.
        forward, _ = self._sweep.passes(layout)
        return (forward + self.samples, float(self.samples))

    @override
    def check(self, network: nn.Module, layout: Layout) -> None:
        self._sweep.check(network, layout)

    @property
    def _sweep(self) -> MCDropout:
        return MCDropout(self.samples, self.masks, self.inject)

    def _mean_probabilities(self, batch: Batch, targets_NT: Targets) -> Tensor:
        """Return the mean over all samples, whatever the block under work: (N, K)."""
        shape = (batch.images.shape[1], batch.images.shape[2], batch.images.shape[3])
        blocks = self._sweep.blocks(shape, batch.block_length)
        total = whole(self._sweep, batch, targets_NT).total(blocks)
        return torch.as_tensor(total["value"] / self.samples, device=batch.images.device)


def _upstream(logits_PK: Tensor, mean_K: Tensor) -> Tensor:
    """Differentiate sum_k (log p_k - log m_k) dp_k by the logits, the logarithms held fixed."""
    log_p_PK = torch.log_softmax(logits_PK, dim=1)
    # A class that no sample gives a chance has no say.
    log_ratio_PK = log_p_PK - torch.where(mean_K > 0, mean_K, 1).log()
    p_PK = log_p_PK.exp()
    return p_PK * (log_ratio_PK - (p_PK * log_ratio_PK).sum(dim=1, keepdim=True))
