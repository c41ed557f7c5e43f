"""What all measures of quality share: they judge the maps that other methods make.

Shape suffixes: N objects, T targets, M judged methods, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from ..arrays import Layout
from ..batch import Batch, Needs
from ..explain import complete, whole
from ..method import Method, Targets


@dataclass(frozen=True, kw_only=True)
class Quality(Method):
    """A measure of the maps of other methods, one value for each of them."""

    of: tuple[str | Method, ...] = ()
    """Methods whose maps are judged: in a job file names of methods of the same job, by default
    all that make maps; in Python the methods themselves."""

    job_types: ClassVar[Mapping[str, Any]] = {"of": tuple[str, ...]}

    @override
    def bound(self, methods: Mapping[str, Method]) -> Method:
        able = {
            name: method
            for name, method in methods.items()
            if method.targeted and not isinstance(method, Quality)
        }
        names = [name for name in self.of if isinstance(name, str)]
        for name in names:
            if name not in able:
                raise ValueError(
                    f"of: {name!r} is no method of this job that makes a map per pixel; "
                    f"there are {', '.join(able) or 'none'}"
                )
        if not able:
            raise ValueError(
                "no method of this job makes a map per pixel, so there is nothing to judge; "
                "add one, such as gradient_x_input"
            )
        return replace(self, of=tuple(able[name] for name in names or able))

    @property
    def judged(self) -> tuple[Method, ...]:
        """The methods whose maps are judged."""
        methods = tuple(method for method in self.of if isinstance(method, Method))
        assert methods, "of holds names: bind the method to those of its job"
        return methods

    @property
    @override
    def needs(self) -> Needs:
        return reduce(or_, (method.needs for method in self.judged))

    @property
    @override
    def coordinates(self) -> Mapping[str, tuple[str, ...]]:
        return {"judged": tuple(method.name for method in self.judged)}

    @override
    def check(self, network: nn.Module, layout: Layout) -> None:
        for method in self.judged:
            method.check(network, layout)


def maps_NTMHW(
    methods: tuple[Method, ...], batch: Batch, targets_NT: Targets
) -> NDArray[np.float64]:
    """Return the maps of some methods, summed over channels; computed once per batch."""
    return np.stack([_map_NTHW(method, batch, targets_NT) for method in methods], axis=2)


def _map_NTHW(method: Method, batch: Batch, targets_NT: Targets) -> NDArray[np.float64]:
    layers = {name: tuple(batch.activation(name).shape[1:]) for name in method.needs.layers}
    _, c, h, w = batch.images.shape
    classes = batch.logits_NK.shape[1]
    layout = Layout((c, h, w), classes, targets_NT.shape[1], "sum", layers)
    arrays = complete(method, whole(method, batch, targets_NT), batch, targets_NT, layout)
    found = method.pixel_map(arrays, layout)
    assert found is not None, f"{method.name} makes no map"
    return np.nan_to_num(found.astype(np.float64))


def maps_elsewhere(
    methods: tuple[Method, ...],
    batch: Batch,
    targets_NT: Targets,
    *,
    network: nn.Module | None = None,
    images_NCHW: Tensor | None = None,
) -> NDArray[np.float64]:
    """Return the maps that another network, or other images, would have had, (N, T, M, H, W)."""
    other = Batch(
        batch.network if network is None else network,
        batch.images if images_NCHW is None else images_NCHW,
        batch.present,
        batch.ids,
        seed=batch.seed,
        needs=reduce(or_, (method.needs for method in methods)),
    )
    other.passes = batch.passes
    return maps_NTMHW(methods, other, targets_NT)


def target_scores(
    logits_RK: Tensor, classes_T: NDArray[np.int64], output: str
) -> NDArray[np.float64]:
    """Return the scores of some classes, (R, T) in float64."""
    logits = logits_RK.double()
    scores = torch.softmax(logits, dim=1) if output == "probability" else logits
    return np.asarray(scores.cpu().numpy()[:, np.maximum(classes_T, 0)])
