"""The report of one or several runs: one HTML file that opens offline."""

from .page import write_report
from .pixels import ReadPixels, read_survey_pixels

__all__ = ["ReadPixels", "read_survey_pixels", "write_report"]
