"""The command line: results on stdout, everything else on stderr, one-line errors."""

from .app import main

__all__ = ["main"]
