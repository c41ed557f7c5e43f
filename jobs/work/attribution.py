"""The work of an attribution job: read a block of objects, explain them, describe the maps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import or_

import numpy as np
import torch
from numpy.typing import NDArray

from attribution.arrays import ArraySpec, Layout
from attribution.batch import Batch, Needs, reproducible
from attribution.explain import TORCH_DTYPES, Request, complete, make_batch, resolve, whole
from attribution.layers import Shape
from attribution.method import Targets
from attribution.partials import Array, Partial
from attribution.prediction import Prediction
from attribution.summary import summarise, summary_arrays
from attribution.targets import NO_TARGET, TargetRequest
from cluster.place import Place
from cluster.unit import ObjectFailure, UnitKey, WorkUnit
from cluster.workload import UnitResult

from ..run.catalogue import StoredCatalogue
from ..specs.jobs import AttributionJob
from ..survey import Catalogue, Cutout, Preprocess, open_reader
from .network import open_network

BatchPartials = list[list[Partial]]
"""Partial results by micro-batch of the unit and by method."""


@dataclass(frozen=True)
class AttributionWorkload:
    """A resolved attribution job and where its run is."""

    job: AttributionJob
    store: Place
    """The result store, whose catalogue the replicas read."""
    cutout_shape: tuple[int, int, int]
    """Bands, height and width of every cutout as the survey has it."""
    device: str
    """``cpu`` or ``cuda``."""
    layers: Mapping[str, Shape] = field(default_factory=dict)
    """Shapes of the outputs of the layers that methods name, for one image."""

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the network's input."""
        preprocess = Preprocess(self.job.network.preprocess, self.cutout_shape[0])
        return (self.cutout_shape[0], *preprocess.output_shape(self.cutout_shape[1:]))

    @cached_property
    def requests(self) -> tuple[Request, ...]:
        """Prediction, for every target that any method explains, and then the job's methods."""
        requests = self.job.requests()
        wanted: dict[TargetRequest, None] = dict.fromkeys(
            target for request in requests if request.method.targeted for target in request.targets
        )
        return (Request(Prediction(), tuple(wanted) or ("predicted",)), *requests)

    @cached_property
    def needs(self) -> Needs:
        """What all methods together need of the pass over the images."""
        return reduce(or_, (request.method.needs for request in self.requests))

    def layout(self, request: Request) -> Layout:
        """Sizes of a request's results."""
        return request.layout(self.image_shape, self.job.network.classes, self.layers)

    @cached_property
    def passes(self) -> tuple[float, float]:
        """Rows that go forward and backward through the network, per object."""
        each = [request.method.passes(self.layout(request)) for request in self.requests]
        return sum(forward for forward, _ in each), sum(backward for _, backward in each)

    @cached_property
    def template(self) -> Mapping[str, ArraySpec]:
        """The result arrays by their path in the store."""
        arrays: dict[str, ArraySpec] = {}
        for request in self.requests:
            layout = self.layout(request)
            name = request.method.name
            found = request.method.arrays(layout)
            arrays |= {f"{name}/{spec.name}": spec for spec in found}
            if any(spec.dims == layout.map_dims or spec.name == "grid" for spec in found):
                described = summary_arrays(layout.targets)
                arrays |= {f"summary/{name}/{spec.name}": spec for spec in described}
        return arrays

    @property
    def separable(self) -> bool:
        """Objects can be left out of a unit: their rows are blank, the others keep their bits."""
        return True

    def open(self) -> OpenAttribution:
        """Load the network and open the survey."""
        return OpenAttribution(self)


class OpenAttribution:
    """An attribution job in a replica."""

    def __init__(self, workload: AttributionWorkload) -> None:
        job = workload.job
        bands, *shape = workload.cutout_shape
        resized = job.network.preprocess.size != "native"
        self._workload = workload
        self._classes = job.network.classes
        self._catalogue = StoredCatalogue(workload.store)
        expected = None if resized else (shape[0], shape[1])
        self._reader = open_reader(job.survey, bands, expected)
        self._preprocess = Preprocess(job.network.preprocess, bands)
        precision = job.execution.precision
        self._dtype = TORCH_DTYPES[precision]
        self._network = open_network(job.network, bands, precision, workload.device)

    def compute(self, unit: WorkUnit) -> UnitResult:
        """Explain all objects of a unit."""
        block = self._read(unit)
        with reproducible():
            finished = [
                self._finish(batch, labels, self._partials(batch, labels, 0, 1))
                for batch, labels in self._batches(block)
            ]
        return self._result(block, finished)

    def partial(self, unit: WorkUnit, share: int) -> BatchPartials:
        """Compute one share of every method's parts, for all objects of a unit."""
        with reproducible():
            return [
                self._partials(batch, labels, share, unit.shares)
                for batch, labels in self._batches(self._read(unit))
            ]

    def probe(self, unit: WorkUnit, rows: range) -> None:
        """Explain some objects of a unit, or a blank micro-batch, and forget the results."""
        block = self._read(unit, rows)
        with reproducible():
            for number, (batch, labels) in enumerate(self._batches(block)):
                if batch.present.any() or (number == 0 and not rows):
                    self._finish(batch, labels, self._partials(batch, labels, 0, 1))

    def finish(self, unit: WorkUnit, partials: Sequence[BatchPartials]) -> UnitResult:
        """Merge the shares of a unit."""
        block = self._read(unit)
        finished = []
        with reproducible():
            for number, (batch, labels) in enumerate(self._batches(block)):
                merged = [
                    _merge(of_method)
                    for of_method in zip(*(share[number] for share in partials), strict=True)
                ]
                finished.append(self._finish(batch, labels, merged))
        return self._result(block, finished)

    def _read(self, unit: WorkUnit, only: range | None = None) -> _Block:
        """Read the objects of a unit, or those of some rows; what is left out is not touched."""
        key = unit.key
        rows, refused = self._catalogue.read(key.start, key.stop)
        images = np.zeros((len(rows), *self._workload.image_shape), dtype=np.float32)
        present = np.zeros(len(rows), dtype=bool)
        hashes = [""] * len(rows)
        failures = []
        left_out = {out.row - key.start: out for out in unit.without}
        for row, out in left_out.items():
            hashes[row] = out.code
            reason = f"object {rows.ids[row]!r} makes its unit fail: {out.reason}"
            failures.append(ObjectFailure(out.row, rows.ids[row], out.code, reason))
        wanted = [
            row
            for row in range(len(rows))
            if row not in left_out and (only is None or key.start + row in only)
        ]
        for row, answer in zip(wanted, self._reader.read(rows.take(wanted)), strict=True):
            if isinstance(answer, Cutout):
                hashes[row] = answer.sha256
                if not refused[row]:
                    images[row] = self._preprocess.apply(answer.pixels)
                    present[row] = True
            else:
                hashes[row] = answer.code
                if not refused[row]:
                    failures.append(answer.of(key.start + row, rows.ids[row]))
        inputs = hashlib.sha256("\n".join(hashes).encode()).hexdigest()
        micro_batch = max(1, self._workload.job.execution.micro_batch >> unit.halvings)
        return _Block(key, rows, images, present, failures, inputs, micro_batch)

    def _batches(self, block: _Block) -> Iterator[tuple[Batch, NDArray[np.int64]]]:
        seed = self._workload.job.execution.seed
        position = {name: index for index, name in enumerate(self._classes)}
        labels = np.array([position.get(label, NO_TARGET) for label in block.rows.labels])
        ids = block.rows.ids
        for start in range(0, len(ids), block.micro_batch):
            rows = slice(start, start + block.micro_batch)
            images = torch.from_numpy(block.images[rows]).to(self._workload.device, self._dtype)
            yield (
                make_batch(
                    self._network,
                    images,
                    ids[rows],
                    block.micro_batch,
                    seed=seed,
                    needs=self._workload.needs,
                    present_N=block.present[rows],
                ),
                labels[rows],
            )

    def _targets(self, request: Request, batch: Batch, labels: NDArray[np.int64]) -> Targets:
        return resolve(request.targets, self._classes, batch, labels)

    def _partials(
        self, batch: Batch, labels: NDArray[np.int64], share: int, shares: int
    ) -> list[Partial]:
        partials = []
        for request in self._workload.requests:
            method = request.method
            targets_NT = self._targets(request, batch, labels)
            if shares == 1:
                partials.append(whole(method, batch, targets_NT))
                continue
            blocks = method.blocks(self._workload.image_shape, batch.block_length)
            mine = range(blocks * share // shares, blocks * (share + 1) // shares)
            partials.append(method.partial(batch, targets_NT, mine))
        return partials

    def _finish(
        self, batch: Batch, labels: NDArray[np.int64], partials: Sequence[Partial]
    ) -> _Finished:
        arrays: dict[str, Array] = {}
        spoilt = np.zeros(len(batch), dtype=bool)
        for request, partial in zip(self._workload.requests, partials, strict=True):
            method = request.method
            layout = self._workload.layout(request)
            targets_NT = self._targets(request, batch, labels)
            found = complete(method, partial, batch, targets_NT, layout)
            spoilt |= _not_finite(found, method.arrays(layout), targets_NT)
            arrays |= {f"{method.name}/{name}": array for name, array in found.items()}
            map_NTHW = method.pixel_map(found, layout)
            if map_NTHW is not None:
                described = summarise(map_NTHW).items()
                arrays |= {f"summary/{method.name}/{name}": array for name, array in described}
        spoilt &= batch.present
        for array in arrays.values():
            if np.issubdtype(array.dtype, np.floating):
                array[spoilt] = np.nan
        arrays["prediction/target"][spoilt] = NO_TARGET
        return _Finished(arrays, spoilt, batch.passes.forward, batch.passes.backward)

    def _result(self, block: _Block, finished: Sequence[_Finished]) -> UnitResult:
        count = len(block.rows)
        arrays = {
            path: np.concatenate([part.arrays[path] for part in finished])[:count]
            for path in self._workload.template
        }
        spoilt = np.concatenate([part.spoilt for part in finished])[:count]
        failures = [
            *block.failures,
            *(
                ObjectFailure(
                    block.key.start + int(row),
                    block.rows.ids[row],
                    "non_finite_output",
                    f"the network's output for {block.rows.ids[row]!r} is NaN or infinite; check "
                    "the weights and network.preprocess",
                )
                for row in np.flatnonzero(spoilt)
            ),
        ]
        return UnitResult(
            arrays,
            tuple(sorted(failures, key=lambda failure: failure.index)),
            block.inputs,
            sum(part.forward for part in finished),
            sum(part.backward for part in finished),
        )


@dataclass
class _Block:
    """The objects of a unit, read and prepared; objects that can't be explained are absent."""

    key: UnitKey
    rows: Catalogue
    images: NDArray[np.float32]
    present: NDArray[np.bool_]
    failures: list[ObjectFailure]
    inputs: str
    micro_batch: int


@dataclass
class _Finished:
    """The results of one micro-batch."""

    arrays: dict[str, Array]
    spoilt: NDArray[np.bool_]
    """Objects whose results are not finite although their pixels are."""
    forward: int
    backward: int


def _merge(partials: Sequence[Partial]) -> Partial:
    merged = partials[0]
    for partial in partials[1:]:
        merged = merged.merge(partial)
    return merged


def _not_finite(
    arrays: Mapping[str, Array], specs: Sequence[ArraySpec], targets_NT: Targets
) -> NDArray[np.bool_]:
    """Tell which objects have NaN or infinity other than where they have no target."""
    bad_N = np.zeros(len(targets_NT), dtype=bool)
    for spec in specs:
        values = arrays[spec.name]
        if spec.dims[:1] == ("target",):
            bad_NT = ~np.isfinite(values).reshape(*targets_NT.shape, -1).all(axis=2)
            bad_N |= (bad_NT & (targets_NT != NO_TARGET)).any(axis=1)
        else:
            bad_N |= ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return bad_N
