"""A fit's history as the file of events that TensorBoard reads; needs the extra ``tensorboard``."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .fit_state import EpochRecord

EVENTS = "events.out.tfevents.0.occulta"
"""TensorBoard looks for ``tfevents`` in the name, and for a number after it."""


def events_of(history: Sequence[EpochRecord]) -> bytes:
    """Return the content of an event file: a scalar for each column and epoch.

    The time of an event is that since the fit began, in seconds.

    Raises
    ------
    ValueError
        If TensorBoard is not installed.
    """
    # Not torch's SummaryWriter: it appends to a file of its own as it goes, and what a killed fit
    # left there would be told twice. This file is written whole, like every other.
    records, events, summaries = _modules()
    stream = io.BytesIO()
    writer = records.RecordWriter(stream)
    writer.write(events.Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
    passed = 0.0
    for record in history:
        passed += record.seconds
        columns = asdict(record)
        epoch = columns.pop("epoch")
        values = [
            summaries.Summary.Value(tag=_tag(name), simple_value=value)
            for name, value in columns.items()
        ]
        summary = summaries.Summary(value=values)
        event = events.Event(wall_time=passed, step=epoch, summary=summary)
        writer.write(event.SerializeToString())
    return stream.getvalue()


def check_installed() -> None:
    """Raise ValueError unless TensorBoard is installed."""
    _modules()


def _tag(column: str) -> str:
    """Put curves that belong together into one chart: loss/train beside loss/validation."""
    part, _, what = column.rpartition("_")
    return f"{what}/{part}" if what in ("loss", "accuracy") else column


def _modules() -> tuple[Any, Any, Any]:
    try:
        return (
            importlib.import_module("tensorboard.summary.writer.record_writer"),
            importlib.import_module("tensorboard.compat.proto.event_pb2"),
            importlib.import_module("tensorboard.compat.proto.summary_pb2"),
        )
    except ImportError as error:
        raise ValueError(
            "fit settings: tensorboard = True needs a package that is not installed; "
            "pip install 'occulta[tensorboard]', or set it to false"
        ) from error
