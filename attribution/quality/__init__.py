"""How much an attribution map deserves trust: measures that judge the maps of other methods."""

from .curves import Deletion, Insertion
from .infidelity import Infidelity
from .randomisation import ModelRandomisation
from .sensitivity import MaxSensitivity

__all__ = ["Deletion", "Infidelity", "Insertion", "MaxSensitivity", "ModelRandomisation"]
