"""The scalars of a block of objects: position, group, and the numbers that are mapped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import zarr
from numpy.typing import NDArray

from ..errors import RefusedError
from .source import COMPLETE, QUARANTINED, RunSource

PREDICTED = "predicted"
"""``group_by`` value that means the class of the highest logit."""

MAX_GROUPS = 256
"""A column with more values than this is no grouping; each group costs a map in memory."""

_NO_GROUPS = ("id", "path")
"""Text columns that name objects, each another."""


@dataclass(frozen=True)
class ObjectBlock:
    """The scalars of a contiguous block of n objects."""

    rows: slice
    """Which rows of the catalogue."""
    status: NDArray[np.uint8]
    """(n,) as in the store."""
    ra: NDArray[np.float64]
    """(n,) ICRS right ascension in degrees; NaN where unknown."""
    dec: NDArray[np.float64]
    """(n,) ICRS declination in degrees; NaN where unknown."""
    predicted: NDArray[np.int64]
    """(n,) class of the highest logit, -1 unless the object is complete."""
    label: NDArray[np.int64]
    """(n,) class of the catalogue's label, -1 without one or where it is none of the classes."""

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Which objects have results, (n,)."""
        return np.equal(self.status, COMPLETE)

    def explained(self, target: str | None) -> NDArray[np.bool_]:
        """Which objects have results for a target, (n,): without a label none for the label.

        Parameters
        ----------
        target : ``predicted``, ``label`` or a class; None for results that need no target
        """
        return self.complete & (self.label >= 0) if target == "label" else self.complete

    @property
    def placed(self) -> NDArray[np.bool_]:
        """Which objects have a position on the sphere, (n,)."""
        return np.isfinite(self.ra) & (np.abs(self.dec) <= 90.0)

    @property
    def correct(self) -> NDArray[np.float64]:
        """1 where the prediction is the label, 0 where not, NaN without a label, (n,)."""
        known = self.complete & (self.label >= 0)
        return np.where(known, (self.predicted == self.label).astype(np.float64), np.nan)


def read_block(source: RunSource, rows: slice) -> ObjectBlock:
    """Read the scalars of a block of objects.

    Raises
    ------
    VerificationError
        If an object of a finished run has no status, or is complete but has no logits: the shard
        is lost.
    """
    status = source.status(rows)
    lost = source.finished & ~np.isin(status, (COMPLETE, QUARANTINED))
    if lost.any():
        fact = f"the run is finished, but object {_first(rows, lost)} has no status"
        raise source.damage("status", _first(rows, lost), fact)
    complete = status == COMPLETE
    logit = source.read("prediction/logit", rows)
    refuse_holes(source, "prediction/logit", rows, complete & ~np.isfinite(logit).all(axis=1))
    predicted = np.where(complete, np.argmax(np.nan_to_num(logit, nan=-np.inf), axis=1), -1)
    absent = np.full(len(status), np.nan)
    return ObjectBlock(
        rows=rows,
        status=status,
        ra=source.read("catalogue/ra", rows) if source.has("catalogue/ra") else absent,
        dec=source.read("catalogue/dec", rows) if source.has("catalogue/dec") else absent,
        predicted=predicted,
        label=encode(read_text(source, "label", rows), source.classes),
    )


def refuse_holes(source: RunSource, name: str, rows: slice, missing: NDArray[np.bool_]) -> None:
    """Raise if an array lacks values of objects that are complete.

    A lost chunk reads as NaN without an error, so NaN where there must be a value is damage.

    Raises
    ------
    VerificationError
        Naming the first object and its shard.
    """
    if missing.any():
        row = _first(rows, missing)
        raise source.damage(name, row, f"object {row} is complete but has no finite value")


def read_text(source: RunSource, column: str, rows: slice) -> NDArray[np.str_]:
    """Read some rows of a text column of the catalogue; an absent column is empty text."""
    name = f"catalogue/{column}"
    if not source.has(name):
        return np.full(rows.stop - rows.start, "")
    return np.array(source.read(name, rows).tolist(), dtype=np.str_)


def read_groups(source: RunSource, block: ObjectBlock, group_by: str) -> NDArray[np.str_]:
    """Return the name of each object's group, (n,); empty where it has none."""
    if group_by == PREDICTED:
        names = np.array([*source.classes, ""])
        return names[block.predicted]
    return read_text(source, group_by, block.rows)


def check_group_by(source: RunSource, group_by: str) -> None:
    """Refuse a grouping column that the catalogue lacks or that is no text.

    Raises
    ------
    RefusedError
        Naming the text columns that there are.
    """
    if group_by == PREDICTED:
        return
    catalogue = source.root["catalogue"]
    assert isinstance(catalogue, zarr.Group)
    columns = {name: array.dtype.kind for name, array in catalogue.arrays()}
    text = sorted(n for n, kind in columns.items() if kind in "OTU" and n not in _NO_GROUPS)
    problem = "no such column" if group_by not in columns else "not a text column"
    if group_by not in text:
        raise RefusedError(
            f"maps: group_by: {group_by}: {problem} in the catalogue of {source.path}; "
            f"use one of: {', '.join([*text, PREDICTED])}"
        )


def order_groups(source: RunSource, found: set[str], group_by: str) -> tuple[str, ...]:
    """Put groups in the order of the classes, those that are no class after them by name.

    Raises
    ------
    RefusedError
        If there are too many.
    """
    found = found - {""}
    if len(found) > MAX_GROUPS:
        raise RefusedError(
            f"maps: group_by: {group_by}: {len(found)} or more different values; a grouping has "
            f"at most {MAX_GROUPS}: use label or {PREDICTED}"
        )
    classes = [name for name in source.classes if name in found]
    return (*classes, *sorted(found.difference(classes)))


def encode(text: NDArray[np.str_], names: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the position of each text in names, -1 where it is none of them."""
    values, inverse = np.unique(text, return_inverse=True)
    position = {name: index for index, name in enumerate(names)}
    codes = np.array([position.get(str(value), -1) for value in values], dtype=np.int64)
    return codes[inverse] if len(values) else np.empty(0, dtype=np.int64)


def count_left_out(block: ObjectBlock) -> dict[str, int]:
    """Count the objects of a block that are on no sky map, by reason."""
    return {
        "pending": int((block.status == 0).sum()),
        "quarantined": int((block.status == QUARANTINED).sum()),
        "without position": int((block.complete & ~block.placed).sum()),
    }


def _first(rows: slice, found: NDArray[np.bool_]) -> int:
    """Return the row of the first object that was found."""
    return int(rows.start) + int(found.argmax())
