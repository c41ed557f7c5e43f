"""Explain a stack of images in one call: the serial reference that every cluster run equals.

Shape suffixes: N objects, K classes, C channels, H height, W width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from .arrays import Channels, Layout
from .batch import Batch, Needs, reproducible
from .layers import Shape, layer_shapes
from .method import Method, Targets
from .partials import Array, Partial
from .targets import NO_TARGET, TargetRequest, resolve_targets, target_names

Precision = Literal["float32", "float64"]
TORCH_DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Request:
    """A method, what it is to explain, and how its maps treat channels."""

    method: Method
    targets: tuple[TargetRequest, ...] = ("predicted",)
    channels: Channels = "sum"

    def layout(
        self,
        image_shape: tuple[int, int, int],
        classes: Sequence[str],
        layers: Mapping[str, Shape],
    ) -> Layout:
        """Sizes of this request's results."""
        targets = len(target_names(self.targets, classes))
        return Layout(image_shape, len(classes), targets, self.channels, layers)


def explain(
    network: nn.Module,
    images: ArrayLike | Tensor,
    method: Method,
    *,
    targets: TargetRequest | Sequence[TargetRequest] | Tensor | NDArray[np.integer] = "predicted",
    labels: Tensor | NDArray[np.integer] | None = None,
    ids: Sequence[str] | None = None,
    seed: int = 0,
    micro_batch: int = 32,
    precision: Precision = "float32",
    channels: Channels = "sum",
) -> dict[str, Array]:
    """Explain the network's answers for some images.

    Parameters
    ----------
    network : maps (N, C, H, W) to logits (N, K); put in evaluation mode for the call, and used on
        the device its parameters are on
    images : (N, C, H, W), the network's inputs
    method : what to compute
    targets : ``predicted``, ``label`` (needs ``labels``), ``all``, a class index, several of these,
        or an integer array (N,) or (N, T) of class indices, -1 for none
    labels : class index per object, -1 where unknown
    ids : identifiers, which random draws are keyed by; by default the position as text
    seed : seed of all random draws
    micro_batch : rows per pass; results depend on it in the last bit, so it is part of a run's
        identity
    precision : ``float32`` or, for checks, ``float64``
    channels : ``sum`` maps over the input's channels, or ``keep`` them

    Returns
    -------
    arrays named as in the store, object first

    Raises
    ------
    ValueError
        If shapes disagree, an image is not finite, or the method has no meaning for this network.
    """
    _check_options(micro_batch, precision, channels)
    dtype = TORCH_DTYPES[precision]
    images_NCHW = torch.as_tensor(images, dtype=dtype).detach()
    _check_images(images_NCHW)
    ids = [str(n) for n in range(len(images_NCHW))] if ids is None else ids
    if len(ids) != len(images_NCHW):
        raise ValueError(f"ids has {len(ids)} entries for {len(images_NCHW)} images")
    targets = _requested(targets, len(images_NCHW), labels is not None)
    labels_N = _labels(labels, len(images_NCHW))
    with reproducible(), prepared(network, dtype) as (model, device):
        image_shape = (images_NCHW.shape[1], images_NCHW.shape[2], images_NCHW.shape[3])
        layers = layer_shapes(model, image_shape, method.needs.layers)
        results = []
        for start in range(0, len(images_NCHW), micro_batch):
            rows = slice(start, start + micro_batch)
            batch = make_batch(
                model,
                images_NCHW[rows].to(device),
                ids[rows],
                micro_batch,
                seed=seed,
                needs=method.needs,
            )
            targets_NT = _targets(targets, batch, labels_N, rows)
            classes = batch.logits_NK.shape[1]
            layout = Layout(image_shape, classes, targets_NT.shape[1], channels, layers)
            if start == 0:
                method.check(model, layout)
            partial = whole(method, batch, targets_NT)
            arrays = complete(method, partial, batch, targets_NT, layout)
            results.append({name: array[batch.present] for name, array in arrays.items()})
    kinds = {spec.name: spec.dtype for spec in method.arrays(layout)}
    return {
        name: np.concatenate([result[name] for result in results]).astype(
            precision if kinds[name] == "float32" else kinds[name]
        )
        for name in results[0]
    }


class prepared:  # noqa: N801 - used like a function
    """Context: the network in evaluation mode and precision, as it was afterwards."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        first = next(network.parameters(), torch.zeros((), dtype=dtype))
        self._network = network if first.dtype == dtype else copy.deepcopy(network).to(dtype)
        self._device = first.device
        self._training = [module for module in self._network.modules() if module.training]

    def __enter__(self) -> tuple[nn.Module, torch.device]:
        return self._network.eval(), self._device

    def __exit__(self, *_: object) -> None:
        for module in self._training:
            module.training = True


def make_batch(
    network: nn.Module,
    images_NCHW: Tensor,
    ids: Sequence[str],
    micro_batch: int,
    *,
    seed: int,
    needs: Needs,
    present_N: NDArray[np.bool_] | None = None,
) -> Batch:
    """Pad some objects to a whole micro-batch."""
    count = len(images_NCHW)
    present = np.zeros(micro_batch, dtype=bool)
    present[:count] = True if present_N is None else present_N
    padding = images_NCHW.new_zeros((micro_batch - count, *images_NCHW.shape[1:]))
    return Batch(
        network,
        torch.cat((images_NCHW, padding)),
        present,
        [*ids, *[""] * (micro_batch - count)],
        seed=seed,
        needs=needs,
    )


def complete(
    method: Method, partial: Partial, batch: Batch, targets_NT: Targets, layout: Layout
) -> dict[str, Array]:
    """Finish the merged partial result; what an object does not have is NaN."""
    total = partial.total(method.blocks(layout.image_shape, batch.block_length))
    arrays = method.finish(total, batch, targets_NT, layout)
    for spec in method.arrays(layout):
        if np.issubdtype(arrays[spec.name].dtype, np.floating):
            arrays[spec.name][~batch.present] = np.nan
            if spec.dims[:1] == ("target",):
                arrays[spec.name][targets_NT == NO_TARGET] = np.nan
    return arrays


def whole(method: Method, batch: Batch, targets_NT: Targets) -> Partial:
    """Compute all parts of a method, once per batch: measures of quality need them too."""
    request = (method, targets_NT.tobytes())
    return batch.once(request, lambda: method.partial(batch, targets_NT))


def resolve(
    requests: Sequence[TargetRequest],
    classes: Sequence[str],
    batch: Batch,
    labels_N: NDArray[np.int64],
) -> Targets:
    """Resolve target requests for the rows of a batch; absent rows have no target."""
    predicted_N = batch.logits_NK.argmax(dim=1).cpu().numpy()
    padded_N = np.full(len(batch), NO_TARGET, dtype=np.int64)
    padded_N[: len(labels_N)] = labels_N
    targets_NT = resolve_targets(requests, classes, predicted_N, padded_N)
    targets_NT[~batch.present] = NO_TARGET
    return targets_NT


def _requested(
    targets: TargetRequest | Sequence[TargetRequest] | Tensor | NDArray[np.integer],
    count: int,
    has_labels: bool,
) -> tuple[TargetRequest, ...] | Targets:
    """Bring what a caller may write to requests, or to class indices (N, T)."""
    if isinstance(targets, Tensor | np.ndarray):
        given = _integers(targets)
        given_NT = given[:, None] if given.ndim == 1 else given
        if given_NT.ndim != 2 or len(given_NT) != count or given_NT.shape[1] == 0:
            raise ValueError(
                f"targets has shape {given.shape}, expected ({count},) or ({count}, T), T > 0"
            )
        return given_NT
    requests = (targets,) if isinstance(targets, str | int | np.integer) else tuple(targets)
    if "label" in requests and not has_labels:
        raise ValueError("targets asks for label: pass the class indices as labels=")
    return requests


def _targets(
    targets: tuple[TargetRequest, ...] | Targets,
    batch: Batch,
    labels_N: NDArray[np.int64],
    rows: slice,
) -> Targets:
    classes = [str(c) for c in range(batch.logits_NK.shape[1])]
    if isinstance(targets, tuple):
        if "label" in targets:
            _check_range("labels", labels_N, len(classes))
        return resolve(targets, classes, batch, labels_N[rows])
    _check_range("targets", targets, len(classes))
    targets_NT = np.full((len(batch), targets.shape[1]), NO_TARGET, dtype=np.int64)
    here = targets[rows]
    targets_NT[: len(here)] = here
    return targets_NT


def _check_range(name: str, given: NDArray[np.int64], classes: int) -> None:
    if not NO_TARGET <= given.min() <= given.max() < classes:
        raise ValueError(
            f"{name} range from {given.min()} to {given.max()}; "
            f"the network has classes 0 to {classes - 1}, and -1 stands for none"
        )


def _integers(given: Tensor | NDArray[np.integer]) -> NDArray[np.int64]:
    return np.asarray(given.cpu() if isinstance(given, Tensor) else given, dtype=np.int64)


def _labels(labels: Tensor | NDArray[np.integer] | None, count: int) -> NDArray[np.int64]:
    if labels is None:
        return np.full(count, NO_TARGET, dtype=np.int64)
    labels_N = _integers(labels)
    if labels_N.shape != (count,):
        raise ValueError(f"labels has shape {labels_N.shape}, expected ({count},)")
    return labels_N


def _check_options(micro_batch: int, precision: str, channels: str) -> None:
    if micro_batch < 1:
        raise ValueError(f"micro_batch is {micro_batch}; a pass needs 1 row or more")
    for name, value, choices in (
        ("precision", precision, get_args(Precision)),
        ("channels", channels, get_args(Channels)),
    ):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; choose {' or '.join(choices)}")


def _check_images(images_NCHW: Tensor) -> None:
    if images_NCHW.ndim != 4 or len(images_NCHW) == 0:
        raise ValueError(
            f"images has shape {tuple(images_NCHW.shape)}, expected (N, C, H, W) with N > 0"
        )
    finite_N = images_NCHW.isfinite().flatten(1).all(dim=1)
    if not finite_N.all():
        bad = int((~finite_N).nonzero()[0, 0])
        raise ValueError(f"images[{bad}] has NaN or infinite pixels; fill or leave it out")
