"""Images that a network itself draws: of its classes, and dreams on a survey's objects."""

from .class_image import ClassImage, ClassImages
from .colours import Colours, survey_colours
from .deep_dream import DeepDream, Dreams
from .parametrisation import Fourier, Parametrisation, Pixels

__all__ = [
    "ClassImage",
    "ClassImages",
    "Colours",
    "DeepDream",
    "Dreams",
    "Fourier",
    "Parametrisation",
    "Pixels",
    "survey_colours",
]
