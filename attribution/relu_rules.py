"""Backward rules of ReLUs: what deconvnet and guided backpropagation do instead of the gradient.

The rules hold for every ReLU that runs in a pass, be it a module, a function, in place or used
several times, because calls are caught where torch dispatches them, not in the modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ReluRule = Literal["deconvnet", "guided"]

_OTHERS = {
    "celu",
    "elu",
    "gelu",
    "glu",
    "hardshrink",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "log_sigmoid",
    "mish",
    "prelu",
    "rrelu",
    "selu",
    "silu",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
}
"""Nonlinearities for which neither rule is defined. Gates (sigmoid, softmax) are no part of the
rules: they pass the plain gradient."""


class _Rectify(torch.autograd.Function):
    """Clip to [0, most] forward; backward as the rule says."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, most: float, rule: ReluRule) -> Tensor:
        if rule == "guided":
            ctx.save_for_backward((x <= 0) | (x >= most))
        return x.clamp(0, most)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        stopped = gradient <= 0
        for inactive in ctx.saved_tensors:
            stopped |= inactive
        return gradient.masked_fill(stopped, 0), None, None


class relu_rule(TorchFunctionMode):  # noqa: N801 - used like a function
    """Context: all ReLUs of passes inside it follow a rule on the way back.

    ``deconvnet`` passes the positive part of what arrives, whatever the forward sign (Zeiler &
    Fergus 2014); ``guided`` also stops it where the ReLU was not active (Springenberg et al.
    2015). A ReLU with an upper bound, such as ReLU6, is not active beyond that bound either.
    ``clamp(min=0)`` is a ReLU; with an upper bound it is a clip of values, which keeps its
    gradient.

    Parameters
    ----------
    rule : ``deconvnet`` or ``guided``
    """

    def __init__(self, rule: ReluRule) -> None:
        super().__init__()
        self._rule = rule
        self.seen: set[str] = set()
        """Names of the nonlinearities that ran."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace a ReLU; let everything else run."""
        kwargs = kwargs or {}
        called = getattr(func, "__name__", "")
        name = called.strip("_")
        most = _upper_bound(name, args, kwargs)
        if most is None:
            self.seen |= {name} & _OTHERS
            return func(*args, **kwargs)
        self.seen.add("relu")
        x = args[0] if args else kwargs["input"]
        result = _Rectify.apply(x, most, self._rule)
        # torch hands `inplace` on by name, however the caller wrote it.
        in_place = called.endswith("_") or kwargs.get("inplace")
        return x.copy_(result) if in_place else result


def _upper_bound(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
    """Return the bound of a call that is a ReLU, or None if it is none."""
    if name == "relu":
        return torch.inf
    if name == "relu6":
        return 6.0
    if name == "hardtanh" and _argument(args, kwargs, 1, "min_val") == 0:
        most = _argument(args, kwargs, 2, "max_val")
        return 1.0 if most is None else float(most)
    if name in ("clamp", "clip", "clamp_min"):
        least, most = (_argument(args, kwargs, at, key) for at, key in ((1, "min"), (2, "max")))
        if not isinstance(least, Tensor) and least == 0 and most is None:
            return torch.inf
    return None


def _argument(args: Sequence[Any], kwargs: Mapping[str, Any], position: int, name: str) -> Any:
    return args[position] if len(args) > position else kwargs.get(name)


def check_relus(network: nn.Module, image_shape: tuple[int, ...], method: str) -> None:
    """Refuse a network whose nonlinearities have no such rule.

    Raises
    ------
    ValueError
        If another nonlinearity than ReLU runs, or no ReLU.
    """
    first = next(network.parameters(), torch.zeros(()))
    row = torch.zeros((1, *image_shape), dtype=first.dtype, device=first.device)
    with torch.no_grad(), relu_rule("deconvnet") as mode:
        network(row)
    others = sorted(mode.seen - {"relu"})
    if others:
        raise ValueError(
            f"{method} is defined for ReLU networks only, and this one uses {', '.join(others)}: "
            "the result would be the plain gradient in disguise; use saliency, gradient_x_input "
            "or integrated_gradients"
        )
    if not mode.seen:
        raise ValueError(
            f"{method} changes how ReLUs pass gradients, and no ReLU runs in this network; use "
            "saliency or gradient_x_input"
        )
