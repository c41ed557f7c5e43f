"""The activations that runs collected, read in blocks.

Shape suffixes: N objects, F filters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attribution.activation_atlas import ActivationAtlas
from attribution.layers import safe_name
from attribution.randomness import key
from cluster.place import Place

from ..errors import RefusedError
from ..maps.objects import ObjectBlock, read_block, read_text, refuse_holes
from ..maps.source import RunSource, open_source
from ..report.rows import gather
from ..run.folder import stored_job
from ..specs.jobs import AttributionJob

_BLOCK_VALUES = 1 << 24
"""Numbers of activations that are read together."""


@dataclass(frozen=True, eq=False)
class Block:
    """Some objects of a survey in a row."""

    scalars: ObjectBlock
    """Their status, prediction and label."""
    id: NDArray[np.str_]
    """Their identifiers, (N,)."""
    activation: NDArray[np.float32]
    """What a layer put out at a random place, (N, F); NaN for objects without results."""

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Objects whose activation has a direction, (N,): they have results, and not only zeros."""
        return np.asarray(self.scalars.complete & (self.activation != 0).any(axis=1))


@dataclass(frozen=True, eq=False)
class AtlasSurvey:
    """A finished run with the method activation_atlas."""

    source: RunSource
    job: AttributionJob
    name: str
    """What it is called in the atlas."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers whose activations there are."""
        methods = [request.method for request in self.job.requests()]
        return next((m.layers for m in methods if isinstance(m, ActivationAtlas)), ())

    def filters(self, layer: str) -> int:
        """Count the filters of a layer."""
        return int(self.source.array(_path(layer)).shape[1])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return channels, height and width of the network's input."""
        bands, height, width = self.source.manifest["image_shape"]
        return bands, height, width

    def positions(
        self, layer: str, rows: NDArray[np.integer]
    ) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """Give the row of the catalogue, and row and column in the layer, of some objects."""
        path = _path(layer, "position")
        chunk = int(self.source.array(path).chunks[0])
        return gather(lambda part: self.source.read(path, part), chunk, rows)

    def blocks(self, layer: str) -> Iterator[Block]:
        """Read a layer's activations of all objects, in the catalogue's order.

        Raises
        ------
        VerificationError
            If a shard is lost.
        """
        step = max(1, _BLOCK_VALUES // self.filters(layer))
        for span in self.source.spans():
            for start in range(span.start, span.stop, step):
                rows = slice(start, min(start + step, span.stop))
                scalars = read_block(self.source, rows)
                activation_NF = self.source.read(_path(layer), rows)
                holes = scalars.complete & ~np.isfinite(activation_NF).all(axis=1)
                refuse_holes(self.source, _path(layer), rows, holes)
                yield Block(scalars, read_text(self.source, "id", rows), activation_NF)

    def sample(self, layer: str, most: int) -> NDArray[np.float32]:
        """Return activations of objects chosen by the hash of their identifiers.

        Parameters
        ----------
        most : how many at most; all that are usable where there are no more

        Returns
        -------
        (N, F), in no particular order
        """
        chosen = np.empty(0, dtype=np.uint64)
        activation_NF = np.empty((0, self.filters(layer)), dtype=np.float32)
        for block in self.blocks(layer):
            usable = block.usable
            keys = [key("activation_atlas", str(name)) for name in block.id[usable]]
            chosen = np.concatenate([chosen, np.array(keys, dtype=np.uint64)])
            activation_NF = np.concatenate([activation_NF, block.activation[usable]])
            if len(chosen) > most:
                first = np.argpartition(chosen, most - 1)[:most]
                chosen, activation_NF = chosen[first], activation_NF[first]
        return activation_NF


def open_surveys(run: Place, others: Sequence[Place], layers: Sequence[str]) -> list[AtlasSurvey]:
    """Open runs whose activations can be compared: of one network, with some layers in common.

    Parameters
    ----------
    run : folder of a run
    others : of further ones
    layers : those that the atlas shall be of; if none is named, all of the first run

    Raises
    ------
    RefusedError
        If a run is unfinished, lacks the method or a layer, or explains another network.
    """
    folders = [run, *others]
    sources = [open_source(folder) for folder in folders]
    names = [source.name for source in sources]
    surveys = []
    for n, source in enumerate(sources):
        if not source.finished:
            raise RefusedError(
                f"{source.path}: the run is not finished; finish it: occulta resume {source.path}"
            )
        name = (
            names[n]
            if names.count(names[n]) == 1
            else f"{names[n]} ({names[: n + 1].count(names[n])})"
        )
        job = stored_job(source.path)
        assert isinstance(job, AttributionJob)
        surveys.append(AtlasSurvey(source, job, name))
    for survey in surveys:
        _check(survey, surveys[0], layers)
    return surveys


def _check(survey: AtlasSurvey, first: AtlasSurvey, layers: Sequence[str]) -> None:
    path = survey.source.path
    if not survey.layers:
        raise RefusedError(
            f"{path}: the job has no method activation_atlas; add "
            "{method: activation_atlas, layers: [..]} to a job of its own and run that"
        )
    for layer in layers or first.layers:
        if layer not in survey.layers:
            raise RefusedError(
                f"{path}: its activation_atlas has no layer {layer!r}; "
                f"name one that it has: {', '.join(survey.layers)}"
            )
    for what, cure in (
        (
            "network",
            "only activations of one network can be compared: give runs of the same weights",
        ),
        ("classes", "give runs whose network.classes are the same"),
    ):
        if _of(survey, what) != _of(first, what):
            raise RefusedError(f"{path}: not the {what} of {first.source.path}; {cure}")


def _of(survey: AtlasSurvey, what: str) -> Any:
    if what == "network":
        return survey.source.manifest["digests"]["network"]
    return survey.source.classes


def _path(layer: str, what: str = "activation") -> str:
    return f"{ActivationAtlas.name}/{safe_name(layer)}_{what}"
