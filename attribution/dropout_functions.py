"""Dropout that networks call as a function, not as a layer.

timm's and torchvision's networks write ``F.dropout(x, self.drop_rate, self.training)`` in their
forward: no module says that values are dropped there, so the calls are caught where torch
dispatches them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

ELEMENTWISE = (nn.Dropout,)
CHANNELWISE = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
UNSUPPORTED = (nn.AlphaDropout, nn.FeatureAlphaDropout)
DROPOUT_LAYERS = (*ELEMENTWISE, *CHANNELWISE, *UNSUPPORTED)
"""Layers of dropout, by what they drop."""

_ELEMENTWISE = ("dropout",)
_CHANNELWISE = ("dropout1d", "dropout2d", "dropout3d", "feature_dropout")
_UNSUPPORTED = ("alpha_dropout", "feature_alpha_dropout")

Drop = Callable[[Tensor, float, bool, int], Tensor]
"""Drop from some values with a probability, whole channels or not, for the nth time in a pass."""


class DropoutFunctions(TorchFunctionMode):
    """Context: count the calls of dropout functions in a network's passes, and replace them.

    Dropout layers call these functions, too; what happens inside a layer is left to it. So are
    calls with a probability of 0.

    Parameters
    ----------
    network : whose passes run inside the context
    drop : what is done instead of each call; None lets it run
    """

    def __init__(self, network: nn.Module, drop: Drop | None = None) -> None:
        super().__init__()
        self.calls = 0
        """Calls in the latest pass."""
        self._network = network
        self._drop = drop
        self._layers = 0
        self._handles: list[RemovableHandle] = []

    @override
    def __enter__(self) -> Self:
        self._handles = [self._network.register_forward_pre_hook(self._begin)]
        for layer in self._network.modules():
            if isinstance(layer, DROPOUT_LAYERS):
                self._handles.append(layer.register_forward_pre_hook(self._go_in))
                self._handles.append(layer.register_forward_hook(self._come_out, always_call=True))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    @override
    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace a dropout function; let everything else run."""
        kwargs = kwargs or {}
        called = getattr(func, "__name__", "")
        name = called.removesuffix("_")
        if self._layers or name not in (*_ELEMENTWISE, *_CHANNELWISE, *_UNSUPPORTED):
            return func(*args, **kwargs)
        x, p = _given(args, kwargs, 0, "input"), _given(args, kwargs, 1, "p")
        p = 0.5 if p is None else float(p)
        if p == 0:
            return func(*args, **kwargs)
        if name in _UNSUPPORTED:
            raise ValueError(
                f"{name} is not supported: it replaces values by others than 0; "
                "use dropout or dropout2d"
            )
        call, self.calls = self.calls, self.calls + 1
        if self._drop is None:
            return func(*args, **kwargs)
        dropped = self._drop(x, p, name in _CHANNELWISE, call)
        in_place = called.endswith("_") or _given(args, kwargs, 3, "inplace")
        return x.copy_(dropped) if in_place else dropped

    def _begin(self, *_: object) -> None:
        self.calls = 0

    def _go_in(self, *_: object) -> None:
        self._layers += 1

    def _come_out(self, *_: object) -> None:
        self._layers -= 1


def _given(args: Sequence[Any], kwargs: Mapping[str, Any], position: int, name: str) -> Any:
    return args[position] if len(args) > position else kwargs.get(name)
