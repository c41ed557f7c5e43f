"""Lists of objects: files with a column of ids."""

from __future__ import annotations

import csv
from pathlib import Path

from ..errors import RefusedError


def read_ids(path: Path) -> list[str]:
    """Read the column ``id`` of a CSV file.

    Raises
    ------
    RefusedError
        If there is no such file or column.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if "id" not in (rows.fieldnames or ()):
                raise RefusedError(
                    f"{path}: has no column id; give a CSV as `occulta select` writes it"
                )
            return [str(row["id"]) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RefusedError(f"{path}: can't be read as CSV ({error})") from error
