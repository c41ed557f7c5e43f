"""The methods by the names that job files use."""

from __future__ import annotations

from .activation_atlas import ActivationAtlas
from .attribution_uncertainty import AttributionUncertainty
from .augmentation_views import TestTimeAugmentation
from .deconvnet import Deconvnet, GuidedBackprop
from .dropout import MCDropout
from .features import FeatureMaps, TopResponses
from .grad_cam import GradCAM
from .gradients import GradientXInput, Saliency
from .integrated_gradients import IntegratedGradients
from .method import Method
from .mutual_information import MutualInformationAttribution
from .occlusion import Occlusion
from .quality import Deletion, Infidelity, Insertion, MaxSensitivity, ModelRandomisation
from .smoothgrad import SmoothGrad, VarGrad

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Occlusion,
        GradientXInput,
        IntegratedGradients,
        Saliency,
        SmoothGrad,
        VarGrad,
        GradCAM,
        Deconvnet,
        GuidedBackprop,
        FeatureMaps,
        TopResponses,
        ActivationAtlas,
        MCDropout,
        TestTimeAugmentation,
        AttributionUncertainty,
        MutualInformationAttribution,
        Deletion,
        Insertion,
        Infidelity,
        MaxSensitivity,
        ModelRandomisation,
    )
}
