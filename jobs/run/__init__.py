"""Run folders: created, worked on to the end, resumed, looked at."""

from .reading import Run, open_run

__all__ = ["Run", "open_run"]
