"""Tensors that carry where in the image each element comes from, through any torch function.

A `Reach` holds, for each element, the least image coordinate that can influence it. What torch
functions do to it follows from one rule: an output element gets the least coordinate of all the
elements that it is computed from. A network that is called with a `Reach` for an image therefore
computes one edge of the receptive fields of all its layers, in one pass and without weights.

Coordinates are mostly the same in all channels, and then share memory: their stride is 0.

A function that is not known here counts as if all of its output depended on all of its input: the
answer may then be too large, never too small. Influence through comparisons and through the
choice of a branch is not followed, as it has no gradient either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

NOWHERE = math.inf
"""The coordinate of what depends on no pixel, such as padding and constants."""

Pair = int | tuple[int, int]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_POINTWISE = _names(
    "relu relu6 hardtanh hardswish hardsigmoid silu gelu elu celu selu leaky_relu prelu rrelu mish "
    "softplus softsign softshrink hardshrink tanhshrink threshold tanh sigmoid logsigmoid erf abs "
    "neg exp expm1 log log1p sqrt rsqrt square reciprocal clamp clamp_min clamp_max clip sign "
    "nan_to_num batch_norm dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout "
    "feature_alpha_dropout to float double half bfloat16 type type_as detach cpu "
    "cuda requires_grad"
)
"""Each element depends on the same element of the first argument."""
_ELEMENTWISE = _names(
    "add sub mul div radd rsub rmul rdiv truediv rtruediv true_divide subtract multiply divide "
    "maximum minimum pow rpow where lerp addcmul addcdiv masked_fill"
)
"""Each element depends on the same element of every argument, after broadcasting."""
_MOVES = _names(
    "reshape view view_as flatten unflatten permute transpose t swapaxes swapdims movedim moveaxis "
    "squeeze unsqueeze expand expand_as repeat repeat_interleave tile chunk split tensor_split "
    "unbind cat concat concatenate stack getitem setitem narrow select index_select roll flip "
    "rot90 clone contiguous pixel_shuffle pixel_unshuffle channel_shuffle get"
)
"""Elements only change their places."""
_CONSTANTS = _names(
    "zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty"
)


class Reach(torch.Tensor):
    """Least image coordinates; see the module's description."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do to coordinates what follows from what the function does to values."""
        kwargs = kwargs or {}
        move: Callable[..., Any] = super().__torch_function__
        name = func.__name__
        in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if in_place and not isinstance(args[0], cls):
            raise NotImplementedError(f"{name} writes what depends on the image into a constant")
        name = name.strip("_")
        if name == "setitem" and thin(args[0]).shape != args[0].shape:
            raise NotImplementedError("some channels are written where all share their memory")
        if name in _MOVES:
            # Memory may be laid out otherwise than in a real pass, so views may need a copy.
            func = Tensor.reshape if name == "view" else func
            return move(func, types, *_changed((args, kwargs), _blank_constants))
        inputs = [
            leaf.as_subclass(Tensor) for leaf in _leaves((args, kwargs)) if isinstance(leaf, cls)
        ]
        # Rules are about what depends on the image through the first argument alone.
        known = len(inputs) == 1 and isinstance(args[0], cls)
        plain = _changed((args, kwargs), lambda leaf: leaf.as_subclass(Tensor))
        result = _result(func, name, plain[0], plain[1], inputs, known)
        result = _changed(result, lambda leaf: leaf.as_subclass(cls) if _is_float(leaf) else leaf)
        if not in_place:
            return result
        shared = thin(args[0])
        dims = [d for d, size in enumerate(args[0].shape) if size != shared.shape[d]]
        move(Tensor.copy_, types, (shared, result.amin(dims, keepdim=True) if dims else result))
        return args[0]


def _result(
    func: Callable[..., Any],
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    inputs: Sequence[Tensor],
    known: bool,
) -> Any:
    """Return the coordinates of a function's output, or its output where that has none."""
    if name in _ELEMENTWISE:
        shapes = [leaf.shape for leaf in _leaves((args, kwargs))]
        least = reduce(torch.minimum, [thin(x) for x in inputs])
        return least.expand(np.broadcast_shapes(*shapes))
    if name in _CONSTANTS:
        return torch.full_like(func(*args, **kwargs), NOWHERE)
    if known and name in _POINTWISE:
        return thin(args[0]).clone().expand(args[0].shape)
    if known and name in _RULES:
        return _RULES[name](*args, **kwargs)
    least = torch.stack([reach.amin() for reach in inputs]).amin()
    return _changed(
        func(*args, **kwargs),
        lambda leaf: torch.full_like(leaf, least.item()) if _is_float(leaf) else leaf,
    )


def _blank_constants(leaf: Tensor) -> Tensor:
    if isinstance(leaf, Reach) or not leaf.is_floating_point():
        return leaf
    return torch.full_like(leaf, NOWHERE)


def thin(x: Tensor) -> Tensor:
    """Return one of the elements that share their memory, along each axis."""
    for dim, (size, stride) in enumerate(zip(x.shape, x.stride(), strict=True)):
        if stride == 0 and size > 1:
            x = x.narrow(dim, 0, 1)
    return x


def _one_channel(x: Tensor) -> Tensor:
    return x.narrow(-3, 0, 1) if x.stride(-3) == 0 else x


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    kernel, dilations = weight.shape[2:], _pair(dilation)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        (top, left), (bottom, right) = [t // 2 for t in total], [t - t // 2 for t in total]
    else:
        top, left = bottom, right = _pair(0 if isinstance(padding, str) else padding)
    if groups == 1 or x.stride(-3) == 0:
        least = _one_channel(x).amin(dim=-3, keepdim=True)
    else:
        *rows, channels, height, width = x.shape
        least = x.reshape(*rows, groups, channels // groups, height, width).amin(dim=-3)
    padded = functional.pad(least, (left, right, top, bottom), value=NOWHERE)
    found = -functional.max_pool2d(-padded, tuple(kernel), stride, 0, dilation)
    if found.shape[-3] == 1:
        return found.expand(*x.shape[:-3], len(weight), *found.shape[-2:])
    return found.repeat_interleave(len(weight) // groups, dim=-3)


def _max_pooled(x: Tensor, *geometry: Any, **named: Any) -> Tensor:
    pooled: Tensor = -functional.max_pool2d(-_one_channel(x), *geometry, **named)
    return pooled.expand(*x.shape[:-2], *pooled.shape[-2:])


def _average_pooled(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    *_: Any,
    **__: Any,
) -> Tensor:
    return _max_pooled(x, kernel_size, stride, padding, ceil_mode=ceil_mode)


def _adaptively_pooled(x: Tensor, size: Any, return_indices: bool = False) -> Tensor:
    pooled = -functional.adaptive_max_pool2d(-_one_channel(x), size)
    return pooled.expand(*x.shape[:-2], *pooled.shape[-2:])


def _reduced(x: Tensor, dim: Any = (), keepdim: bool = False, **_: Any) -> Tensor:
    return x.amin(dim=() if dim is None else dim, keepdim=keepdim)


def _along(x: Tensor, dim: int, *_: Any, **__: Any) -> Tensor:
    return x.amin(dim=dim, keepdim=True).expand_as(x)


def _layer_normalised(x: Tensor, shape: Sequence[int], *_: Any, **__: Any) -> Tensor:
    dims = tuple(range(-len(shape), 0))
    return x.amin(dim=dims, keepdim=True).expand_as(x)


def _group_normalised(x: Tensor, groups: int, *_: Any, **__: Any) -> Tensor:
    grouped = x.reshape(len(x), groups, -1)
    return grouped.amin(dim=2, keepdim=True).expand_as(grouped).reshape(x.shape)


def _linear(x: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
    return x.amin(dim=-1, keepdim=True).expand(*x.shape[:-1], len(weight))


def _padded(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    if mode == "constant":
        return functional.pad(x, list(pad), value=NOWHERE)
    return functional.pad(x, list(pad), mode=mode)


_RULES: Mapping[str, Callable[..., Tensor]] = {
    "conv2d": _convolved,
    "max_pool2d": _max_pooled,
    "avg_pool2d": _average_pooled,
    "adaptive_avg_pool2d": _adaptively_pooled,
    "adaptive_max_pool2d": _adaptively_pooled,
    **dict.fromkeys(("mean", "sum", "amax", "amin", "nanmean", "nansum"), _reduced),
    **dict.fromkeys(("softmax", "log_softmax"), _along),
    "layer_norm": _layer_normalised,
    "group_norm": _group_normalised,
    "linear": _linear,
    "pad": _padded,
}
"""Functions of one argument that depends on the image, the first."""


def _pair(value: Any) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return (values[0], values[-1])


def _is_float(leaf: Tensor) -> bool:
    return leaf.is_floating_point()


def _leaves(tree: Any) -> Iterator[Tensor]:
    """Give the tensors among arguments or results."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple | list):
        for branch in tree:
            yield from _leaves(branch)
    elif isinstance(tree, Mapping):
        yield from _leaves(list(tree.values()))


def _changed(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change the tensors among arguments or results."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, tuple | list):
        branches = [_changed(branch, change) for branch in tree]
        # A torch.Size is no sequence of tensors; torch's named results are made of one sequence.
        return tree if isinstance(tree, torch.Size) else type(tree)(branches)
    if isinstance(tree, Mapping):
        return {name: _changed(branch, change) for name, branch in tree.items()}
    return tree
