"""What the survey-wide maps of a run look like."""

from __future__ import annotations

from pydantic import Field, field_validator

from .base import Spec


class MapsSpec(Spec):
    """Resolution and grouping of the maps that are aggregated from a finished run."""

    nside: int = Field(default=64, ge=1, le=8192)
    """HEALPix resolution, a power of two: 64 gives cells 0.92 degrees wide, 128 half of that."""
    group_by: str = Field(default="label", min_length=1)
    """Text column of the catalogue whose values each get a mean attribution map, or `predicted`
    for the class of the highest logit."""
    min_count: int = Field(default=3, ge=1)
    """Sky cells with fewer objects than this keep their count; their means are masked (NaN)."""

    @field_validator("nside")
    @classmethod
    def _power_of_two(cls, nside: int) -> int:
        if nside & (nside - 1):
            below = 1 << (nside.bit_length() - 1)
            raise ValueError(f"nside {nside} is not a power of two; use {below} or {2 * below}")
        return nside
