"""Refusals of what a user asked for."""

from __future__ import annotations

from cluster.errors import OccultaError


class RefusedError(OccultaError):
    """The request is invalid or can't be met; nothing was started and nothing changed."""
