"""What the kinds of jobs have in common."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar

from pydantic import Field

from .base import Spec

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class JobSpec(Spec):
    """What every job file has."""

    kind: str
    name: Name
    """Name of the job: lower-case letters, digits, dot, dash and underscore."""
    output: str
    """The run folder."""

    free: ClassVar[tuple[str, ...]] = ("name", "output")
    """Fields, by dotted path, that may change between a run and its resume."""

    def identity(self) -> dict[str, Any]:
        """Return the fields that results depend on, by dotted path."""
        flat = _flatten(json.loads(self.model_dump_json()))
        return {
            path: value
            for path, value in flat.items()
            if not any(path == free or path.startswith(f"{free}.") for free in self.free)
        }

    def digest(self) -> str:
        """Return the sha256 of `identity`."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        items = [(f"{path}.{key}" if path else key, entry) for key, entry in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        items = [(f"{path}[{number}]", entry) for number, entry in enumerate(value)]
    else:
        return {path: value}
    return {name: leaf for key, entry in items for name, leaf in _flatten(entry, key).items()}
