"""What the aggregation reads of a run folder: its manifest, its job file and its result arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
import zarr.errors
from numpy.typing import NDArray

from cluster.errors import StorageError, VerificationError
from cluster.ledger import Ledger
from cluster.place import Place
from cluster.reading import zarr_store
from cluster.remote import S3Path
from cluster.unit import UnitKey

from ..errors import RefusedError
from ..specs.plain_yaml import parse_yaml
from ..specs.survey import PICTURES
from .contents import MapArray, Quantity, find_maps, find_quantities, method_groups

Origin = Literal["lower", "upper"]
"""Where row 0 of an image belongs when it is shown: FITS counts upwards, PNG and JPEG downwards."""

COMPLETE = 1
QUARANTINED = 2
"""Values of the store's ``status`` array; 0 is pending."""


MIN_BLOCKS = 32
"""Blocks that a survey is cut into at least, as far as it has that many shards."""
MAX_BLOCK = 65536
"""Objects of a block at most, unless a shard is larger: scalars of a block are held at once."""
_READS_OVER_A_NETWORK = 8
"""How often a part of an object is read before it counts as damaged."""


@dataclass(frozen=True)
class RunSource:
    """An attribution run, opened for reading; arrays are read in pieces, never whole."""

    path: Place
    """The run folder."""
    manifest: Mapping[str, Any]
    """Content of manifest.json."""
    job: Mapping[str, Any]
    """Content of job.yaml."""
    root: zarr.Group
    """The store, results.zarr."""

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.manifest.get("name", self.path.name))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return tuple(str(name) for name in self.manifest["classes"])

    @property
    def objects(self) -> int:
        """Number of objects in the catalogue, whatever their status."""
        return int(self.array("status").shape[0])

    @property
    def finished(self) -> bool:
        """Whether the run was finalised."""
        return bool(self.manifest.get("results_digest"))

    @cached_property
    def maps(self) -> Mapping[str, MapArray]:
        """The arrays with an attribution map per object, by name; a method may have several."""
        return find_maps(self.root)

    @cached_property
    def class_maps(self) -> Mapping[str, MapArray]:
        """The arrays with a map of class numbers per object, by name."""
        return find_maps(self.root, kinds="iu")

    @cached_property
    def quantities(self) -> Mapping[str, Quantity]:
        """The numbers per object that can be mapped, by name."""
        return find_quantities(self.root)

    @property
    def origin(self) -> Origin:
        """Where row 0 of the survey's images belongs when they are shown."""
        survey = self.job.get("survey")
        drawn = isinstance(survey, Mapping) and survey.get("format") in PICTURES
        return "upper" if drawn else "lower"

    def array(self, name: str) -> zarr.Array[Any]:
        """Return the array at a path such as ``prediction/logit``.

        Raises
        ------
        VerificationError
            If the store has no such array.
        """
        found = self.root.get(name)
        if not isinstance(found, zarr.Array):
            raise VerificationError(
                f"{self.path / 'results.zarr' / name}: no such array; the store is damaged or of "
                f"another version: occulta verify {self.path}"
            )
        return found

    def attributes(self, name: str) -> dict[str, Any]:
        """Return the attributes of an array."""
        return self.array(name).attrs.asdict()

    def has(self, name: str) -> bool:
        """Return whether the store has an array at this path."""
        return isinstance(self.root.get(name), zarr.Array)

    def read(self, name: str, rows: slice, *more: Any) -> NDArray[Any]:
        """Read some objects of an array.

        Parameters
        ----------
        name : path in the store
        rows : which objects
        more : selections along the dimensions after the object's

        Raises
        ------
        StorageError
            If a shard can't be read.
        VerificationError
            If a shard is damaged; the error names it.
        """
        array = self.array(name)
        try:
            return self._decoded(array, (rows, *more))
        except OSError as error:
            raise StorageError(
                f"{self.path / 'results.zarr' / name}: objects {rows.start} to {rows.stop - 1} "
                f"can't be read ({error.strerror or error}); make the store readable"
            ) from error
        except (ValueError, RuntimeError, zarr.errors.BaseZarrError) as error:
            raise self.damage(name, self._first_damaged(name, rows), _one_line(error)) from error

    def _decoded(self, array: zarr.Array[Any], selection: tuple[Any, ...]) -> NDArray[Any]:
        # A part of an object may be damaged on its way, which only its checksum shows.
        for _ in range(_READS_OVER_A_NETWORK - 1 if isinstance(self.path, S3Path) else 0):
            with suppress(ValueError, RuntimeError):
                return np.asarray(array[selection])
        return np.asarray(array[selection])

    def status(self, rows: slice) -> NDArray[np.uint8]:
        """Return the status of some objects; of an unfinished run, as the ledger has it so far."""
        status = self.read("status", rows)
        for key, failed in self._committed:
            start, stop = max(key.start, rows.start), min(key.stop, rows.stop)
            if start < stop:
                status[start - rows.start : stop - rows.start] = COMPLETE
                here = failed[(failed >= start) & (failed < stop)]
                status[here - rows.start] = QUARANTINED
        return status

    @cached_property
    def _committed(self) -> list[tuple[UnitKey, NDArray[np.int64]]]:
        """The units done by an unfinished run, and their objects that failed."""
        if self.finished:
            return []  # the status was written at the end
        return [
            (
                UnitKey.parse(receipt.key),
                np.array([failure.index for failure in receipt.failures], np.int64),
            )
            for receipt in Ledger(self.path / "ledger").receipts()
        ]

    @cached_property
    def first_targets(self) -> Mapping[str, str]:
        """What each method's first target is, such as ``predicted``: the one that is mapped."""
        return {
            method: str(self.read(f"{method}/target", slice(0, 1))[0])
            for method, _ in method_groups(self.root)
            if self.has(f"{method}/target")
        }

    def damage(self, name: str, row: int, fact: str) -> VerificationError:
        """Return the error that names the shard which holds an object of a damaged array."""
        array = self.array(name)
        length = (array.shards or array.chunks)[0]
        key = array.metadata.encode_chunk_key((row // length, *[0] * (array.ndim - 1)))
        return VerificationError(
            f"{self.path / 'results.zarr' / name}: shard {key} (objects {row // length * length} "
            f"to {min((row // length + 1) * length, array.shape[0]) - 1}) is lost or damaged: "
            f"{fact}: occulta verify {self.path} --repair"
        )

    def _first_damaged(self, name: str, rows: slice) -> int:
        """Return the first row of the first shard that can't be decoded."""
        array = self.array(name)
        length = int((array.shards or array.chunks)[0])
        first: int = rows.start
        starts = [first, *range((first // length + 1) * length, rows.stop, length)]
        for start, stop in zip(starts, [*starts[1:], rows.stop], strict=True):
            try:
                array[start:stop]
            except (OSError, ValueError, RuntimeError, zarr.errors.BaseZarrError):
                return int(start)
        return first

    def spans(self) -> list[slice]:
        """Cut the objects into blocks of whole shards.

        Blocks are large enough that a chunk of the catalogue is decoded for few of them, and small
        enough that there are some for every thread.
        """
        logit = self.array("prediction/logit")
        shard = int((logit.shards or logit.chunks)[0])
        length = max(1, min(self.objects // MIN_BLOCKS, MAX_BLOCK) // shard) * shard
        return [
            slice(start, min(start + length, self.objects))
            for start in range(0, self.objects, length)
        ]


def open_source(path: Place) -> RunSource:
    """Open an attribution run for aggregation.

    Raises
    ------
    RefusedError
        If the folder is not a run, or a run of another kind.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        job = parse_yaml((path / "job.yaml").read_text(encoding="utf-8"), "job.yaml")
    except FileNotFoundError as error:
        raise RefusedError(
            f"{path}: no {Path(str(error.filename)).name} there, so it is not a run folder; "
            "give the folder that `occulta run` wrote"
        ) from error
    except (OSError, ValueError, RefusedError) as error:
        raise RefusedError(
            f"{path}: manifest.json or job.yaml can't be read ({_one_line(error)}); restore them"
        ) from error
    kind = manifest.get("kind")
    if kind != "attribution":
        raise RefusedError(f"{path}: a run of kind {kind}; maps and reports need kind attribution")
    try:
        root = zarr.open_group(zarr_store(path / "results.zarr"), mode="r")
    except (OSError, ValueError) as error:
        raise RefusedError(
            f"{path / 'results.zarr'}: no store there; run the job: occulta resume {path}"
        ) from error
    return RunSource(path, manifest, job, root)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
