"""One network and a batch of images in, attributions out: torch and numpy only."""

from .arrays import ArraySpec, Layout, round_mantissa
from .dropout import MCDropout
from .explain import explain
from .gradients import GradientXInput, Saliency
from .integrated_gradients import IntegratedGradients
from .method import Method
from .occlusion import Occlusion
from .partials import Partial
from .prediction import Prediction

__all__ = [
    "ArraySpec",
    "GradientXInput",
    "IntegratedGradients",
    "Layout",
    "MCDropout",
    "Method",
    "Occlusion",
    "Partial",
    "Prediction",
    "Saliency",
    "explain",
    "round_mantissa",
]
