"""The command line: results on stdout, everything else on stderr, one-line errors."""

from . import submitted as submitted
from .app import main

__all__ = ["main"]
