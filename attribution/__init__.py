"""One network and a batch of images in, attributions out: torch and numpy only."""

from .activation_atlas import ActivationAtlas
from .arrays import ArraySpec, Layout, round_mantissa
from .attribution_uncertainty import AttributionUncertainty
from .augmentation_views import TestTimeAugmentation
from .deconvnet import Deconvnet, GuidedBackprop
from .dropout import MCDropout
from .explain import explain
from .features import FeatureMaps, TopResponses
from .grad_cam import GradCAM
from .gradients import GradientXInput, Saliency
from .integrated_gradients import IntegratedGradients
from .method import Method
from .mutual_information import MutualInformationAttribution
from .occlusion import Occlusion
from .partials import Partial
from .prediction import Prediction
from .quality import Deletion, Infidelity, Insertion, MaxSensitivity, ModelRandomisation
from .smoothgrad import SmoothGrad, VarGrad

__all__ = [
    "ActivationAtlas",
    "ArraySpec",
    "AttributionUncertainty",
    "Deconvnet",
    "Deletion",
    "FeatureMaps",
    "GradCAM",
    "GradientXInput",
    "GuidedBackprop",
    "Infidelity",
    "Insertion",
    "IntegratedGradients",
    "Layout",
    "MCDropout",
    "MaxSensitivity",
    "Method",
    "ModelRandomisation",
    "MutualInformationAttribution",
    "Occlusion",
    "Partial",
    "Prediction",
    "Saliency",
    "SmoothGrad",
    "TestTimeAugmentation",
    "TopResponses",
    "VarGrad",
    "explain",
    "round_mantissa",
]
