"""Surveys in: a catalogue, one reader per format, and what becomes of their pixels.

A bad object never stops a survey: its reader answers with a `ReadFailure` whose code is explained
in `ERROR_CODES`, and its neighbours are read as if it were not there.
"""

from .catalogue import Catalogue
from .codes import ERROR_CODES
from .describe import read_catalogue
from .preprocess import Preprocess
from .reader import Cutout, Reader, ReadFailure
from .survey import Survey, open_reader, open_survey

__all__ = [
    "ERROR_CODES",
    "Catalogue",
    "Cutout",
    "Preprocess",
    "ReadFailure",
    "Reader",
    "Survey",
    "open_reader",
    "open_survey",
    "read_catalogue",
]
