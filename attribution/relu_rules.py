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

Rule = Literal["deconvnet", "guided"]

_RELUS = {"relu", "relu_", "relu6", "hardtanh", "hardtanh_"}
_OTHERS = {
    "celu",
    "elu",
    "gelu",
    "hardswish",
    "leaky_relu",
    "mish",
    "prelu",
    "rrelu",
    "selu",
    "silu",
    "softplus",
    "tanh",
}
"""Nonlinearities for which neither rule is defined."""


class _Rectify(torch.autograd.Function):
    """Clip to [0, most] forward; backward as the rule says."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, most: float, rule: Rule, in_place: bool) -> Tensor:
        if rule == "guided":
            ctx.save_for_backward((x > 0) & (x < most))
        if in_place:
            ctx.mark_dirty(x)
            return x.clamp_(0, most)
        return x.clamp(0, most)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        passed = gradient.clamp(min=0)
        if ctx.saved_tensors:
            passed = torch.where(ctx.saved_tensors[0], passed, torch.zeros_like(passed))
        return passed, None, None, None


class relu_rule(TorchFunctionMode):  # noqa: N801 - used like a function
    """Context: all ReLUs of passes inside it follow a rule on the way back.

    ``deconvnet`` passes the positive part of what arrives, whatever the forward sign (Zeiler &
    Fergus 2014); ``guided`` also stops it where the input was not positive (Springenberg et al.
    2015). ReLU6 is a ReLU with a second bound.

    Parameters
    ----------
    rule : ``deconvnet`` or ``guided``
    """

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self._rule = rule
        self.seen: list[str] = []
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
        name = getattr(func, "__name__", "")
        if name in _OTHERS or name.rstrip("_") in _OTHERS:
            self.seen.append(name.rstrip("_"))
        if name not in _RELUS or (name.startswith("hardtanh") and _lower(args, kwargs) != 0):
            return func(*args, **kwargs)
        self.seen.append("relu")
        x = args[0] if args else kwargs["input"]
        position = 1 if name.startswith("relu") else 3
        in_place = name.endswith("_") or bool(_argument(args, kwargs, position, "inplace", False))
        most = torch.inf
        if name == "relu6":
            most = 6.0
        elif name.startswith("hardtanh"):
            most = float(_argument(args, kwargs, 2, "max_val", 1.0))
        return _Rectify.apply(x, most, self._rule, in_place)


def check_relus(network: nn.Module, image_shape: tuple[int, int, int], method: str) -> None:
    """Refuse a network whose nonlinearities have no such rule.

    Raises
    ------
    ValueError
        If another nonlinearity than ReLU runs, or none at all.
    """
    first = next(network.parameters(), torch.zeros(()))
    row = torch.zeros((1, *image_shape), dtype=first.dtype, device=first.device)
    with torch.no_grad(), relu_rule("deconvnet") as mode:
        network(row)
    others = sorted(set(mode.seen) - {"relu"})
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


def _lower(args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
    return float(_argument(args, kwargs, 1, "min_val", -1.0))


def _argument(
    args: Sequence[Any], kwargs: Mapping[str, Any], position: int, name: str, default: Any
) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)
