"""The methods by the names that job files use."""

from __future__ import annotations

from .dropout import MCDropout
from .gradients import GradientXInput, Saliency
from .integrated_gradients import IntegratedGradients
from .method import Method
from .occlusion import Occlusion

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (Occlusion, GradientXInput, Saliency, IntegratedGradients, MCDropout)
}
