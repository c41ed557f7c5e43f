"""Which column of a user's table is which, and how each becomes one plain column without nulls."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.text import one_line
from jobs.errors import RefusedError
from jobs.specs.survey import Columns

from .tables import SourceTable
from .text import did_you_mean

ALIASES: dict[str, tuple[str, ...]] = {
    "id": ("id_str", "id", "object_id", "objid", "iauname", "dr8_id", "targetid"),
    "ra": ("ra", "ra_deg"),
    "dec": ("dec", "dec_deg"),
    "label": ("label", "class", "morphology", "target"),
    "path": ("file_loc", "filename", "path"),
}
"""Names that columns are found by, in any case; an earlier one wins."""

RESERVED = frozenset({*ALIASES, "row", "file_stamp", "content_sha256", "zarr.json", ""})
"""Names that no further column of a survey keeps: they have a meaning of their own."""


def find_columns(names: list[str], overrides: Columns, place: str) -> dict[str, str]:
    """Tell which column plays which part.

    Returns
    -------
    dict
        Part (a key of `ALIASES`) to the column's name, for the parts that there are.

    Raises
    ------
    RefusedError
        If an override names no column, or one column is to play two parts.
    """
    by_lower: dict[str, str] = {}
    for name in names:
        by_lower.setdefault(name.lower(), name)
    found: dict[str, str] = {}
    for part, aliases in ALIASES.items():
        wanted = getattr(overrides, part)
        if wanted is not None:
            found[part] = _existing(wanted, names, f"{place}: columns.{part}")
            continue
        known = [alias if alias in names else by_lower.get(alias) for alias in aliases]
        match = next((name for name in known if name is not None), None)
        if match is not None and match not in overrides.model_dump().values():
            found[part] = match
    repeated = {name for name in found.values() if list(found.values()).count(name) > 1}
    if repeated:
        raise RefusedError(f"{place}: columns: '{repeated.pop()}' is given two parts; give it one")
    return found


def _existing(wanted: str, names: list[str], where: str) -> str:
    if wanted in names:
        return wanted
    shown = ", ".join(one_line(name) for name in names[:30]) + (", ..." if len(names) > 30 else "")
    raise RefusedError(
        f"{where}: there is no column '{wanted}'{did_you_mean(wanted, names)}; there are: {shown}"
    )


def normalise(source: SourceTable, found: dict[str, str], root: str = "") -> pa.Table:
    """Return the table with id, ra, dec, label (and path, if found) first, then the others.

    Paths below the folder `root` become relative to it.

    Raises
    ------
    RefusedError
        If a column can't play its part.
    """
    columns: dict[str, pa.ChunkedArray] = {}
    columns["id"] = _identifiers(source, found)
    rows = len(columns["id"])
    for part in ("ra", "dec"):
        columns[part] = _degrees(source, found.get(part), part, rows)
    columns["label"] = (
        _part_as_text(source, found["label"], "label")
        if "label" in found
        else pa.chunked_array([pa.repeat(pa.scalar(""), rows)])
    )
    if "path" in found:
        columns["path"] = _relative(_part_as_text(source, found["path"], "path"), root)
    for name in source.types:
        if name in found.values() or name.startswith("__index_level_"):
            continue
        if _is_plain(source.types[name]):
            columns[_safe_name(name, columns)] = _plain(source.load(name))
    return pa.table(columns)


def _identifiers(source: SourceTable, found: dict[str, str]) -> pa.ChunkedArray:
    if "id" not in found:
        names = ", ".join(one_line(name) for name in list(source.types)[:30])
        raise RefusedError(
            f"{source.place}: no column of identifiers (such as {', '.join(ALIASES['id'][:3])}); "
            f"name it in survey.columns.id; there are: {names}"
        )
    name = found["id"]
    if pa.types.is_floating(source.types[name]):
        raise RefusedError(
            f"{source.place}: column '{name}' holds identifiers as floating-point numbers, which "
            "lose digits past 2^53; save them as integers or text"
        )
    return _part_as_text(source, name, "id")


def _part_as_text(source: SourceTable, name: str, part: str) -> pa.ChunkedArray:
    try:
        return _text(source.load(name))
    except pa.ArrowException as error:
        raise RefusedError(
            f"{source.place}: column '{one_line(name)}' of type {source.types[name]} can't be the "
            f"{part}: text is needed; name another one in survey.columns.{part}"
        ) from error


def _relative(paths: pa.ChunkedArray, root: str) -> pa.ChunkedArray:
    """Write paths inside the root as the folder's listing does, so that the two can be compared."""
    prefix = root.rstrip("/") + "/"
    return pa.chunked_array([_relative_chunk(chunk, prefix) for chunk in paths.chunks], pa.string())


def _relative_chunk(paths: pa.Array, prefix: str) -> pa.Array:
    for pattern, plain in ((r"/(\.?/)+", "/"), (r"^(\./)+", "")):
        paths = pc.replace_substring_regex(paths, pattern, plain)
    inside = pc.starts_with(paths, prefix)
    return pc.if_else(inside, pc.utf8_slice_codeunits(paths, len(prefix)), paths)


def _degrees(source: SourceTable, name: str | None, part: str, rows: int) -> pa.ChunkedArray:
    if name is None:
        return pa.chunked_array([pa.array(np.full(rows, np.nan))])
    kind = source.types[name]
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise RefusedError(
            f"{source.place}: column '{name}' is {kind} where {part} needs degrees as numbers; "
            f"convert it, or name another one in survey.columns.{part}"
        )
    column = pc.cast(source.load(name), pa.float64())
    degrees = np.array(pc.fill_null(column, np.nan).to_numpy()) * source.degrees.get(name, 1.0)
    if part == "ra":
        degrees[(degrees >= -180.0) & (degrees < 0.0)] += 360.0
        degrees[degrees == 360.0] = 0.0
    return pa.chunked_array([pa.array(degrees)])


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or _is_text(kind)
        or pa.types.is_date(kind)
        or pa.types.is_timestamp(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as numbers, booleans or strings; a null becomes NaN or an empty string."""
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    kind = column.type
    if pa.types.is_decimal(kind) or pa.types.is_float16(kind):
        column = pc.cast(column, pa.float64() if pa.types.is_decimal(kind) else pa.float32())
    if pa.types.is_floating(column.type):
        return pc.fill_null(column, np.nan) if column.null_count else column
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        return _text(column)
    if column.null_count == 0:
        return column
    try:
        return pc.fill_null(pc.cast(column, pa.float64()), np.nan)
    except pa.ArrowInvalid:  # integers that float64 can't hold: their digits matter more
        return _text(column)


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as strings; numbers as their exact digits, nulls as empty strings."""
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
        try:
            column = pc.cast(column, pa.int64())  # classes 0.0 and 1.0 are called 0 and 1
        except pa.ArrowInvalid:
            column = pc.cast(column, pa.float64())
    if not pa.types.is_string(column.type):
        column = pc.cast(column, pa.string())
    return pc.fill_null(column, "") if column.null_count else column


def _safe_name(name: str, taken: dict[str, pa.ChunkedArray]) -> str:
    """Return a name that can also be that of an array in a store: no path, no hidden file."""
    safe = re.sub(r"[^\w.+-]", "_", name).lstrip(".")
    if safe.startswith("__"):
        safe = safe.lstrip("_")
    if safe in RESERVED:
        safe = f"survey_{safe}" if safe else "column"
    base, number = safe, 2
    while safe in taken:
        safe, number = f"{base}_{number}", number + 1
    return safe
