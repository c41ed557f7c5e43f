"""From a run with `top_responses` to the figure of Zeiler & Fergus 2014, for the whole survey.

For each filter of each layer: the objects that it responds to most strongly, the part of each image
that it sees at its strongest position, and what in that part makes it respond (deconvnet).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from torch import nn

from attribution.arrays import round_mantissa
from attribution.features import TopResponses
from attribution.layers import safe_name
from attribution.receptive_field import input_rectangles
from attribution.relu_rules import check_relus
from cluster.place import Place

from ..errors import RefusedError
from ..maps.aggregate import Progress
from ..maps.source import RunSource, open_source
from ..products import consolidate, new_folder
from ..report.layer_figures import Look, draw_top
from ..run.folder import check_same, stored_job
from ..specs.jobs import AttributionJob
from ..specs.survey import PICTURES
from ..work.network import network_identity, open_network
from .images import ObjectImages
from .lists import TopList, find_list
from .projections import Activations
from .store import TOGETHER, LayerStore

TOP = "top"
"""Folder of the lists inside the run folder."""
_PAGE = 24
"""Filters in one picture."""
_SAME, _NOTHING = 1e-4, 1e-6
"""Largest deviation of a response that is computed again: as a share of its neighbours' largest,
and where all of them are 0."""


@dataclass(frozen=True)
class TopProduct:
    """The strongest responses of a run, and where they were written."""

    path: Place
    """RUN/top."""
    layers: tuple[str, ...]
    """Names of the layers."""
    k: int
    """Objects per filter."""
    figures: tuple[Place, ...]
    """The pictures."""
    note: str
    """Why there are no projections; empty if there are."""

    @property
    def zarr(self) -> Place:
        """The Zarr store, one group per layer."""
        return self.path / "top.zarr"


def build_top(
    run: Place, *, device: str = "cpu", on_progress: Progress | None = None
) -> TopProduct:
    """Find what each filter of a run responds to most strongly, and write it to RUN/top.

    Parameters
    ----------
    run : folder of a finished attribution run whose job has the method top_responses
    device : where the network projects, ``cpu`` or ``cuda``
    on_progress : told the number of filters done and of all filters

    Raises
    ------
    RefusedError
        If the run is unfinished or has no such method, or if its network or one of the images is
        not what it was.
    VerificationError
        If a shard is lost.
    StorageError
        If the survey can't be read, or the lists can't be written.
    """
    work = _Work.of(run, device)
    with new_folder(run / TOP) as folder:
        figures = work.write(folder, on_progress)
    pictures = tuple(run / TOP / name for name in figures)
    return TopProduct(run / TOP, work.method.layers, work.method.k, pictures, work.note)


@dataclass(frozen=True)
class _Work:
    """A run whose network is loaded and is what it was."""

    source: RunSource
    job: AttributionJob
    method: TopResponses
    network: nn.Module
    image_shape: tuple[int, int, int]
    note: str
    """Why deconvnet is not defined; empty if it is."""

    @classmethod
    def of(cls, run: Place, device: str) -> _Work:
        source = open_source(run)
        if not source.finished:
            raise RefusedError(f"{run}: the run is not finished; finish it: occulta resume {run}")
        job = stored_job(run)
        assert isinstance(job, AttributionJob)
        methods = [request.method for request in job.requests()]
        method = next((method for method in methods if isinstance(method, TopResponses)), None)
        if method is None:
            raise RefusedError(
                f"{run}: the job has no method top_responses; add "
                "{method: top_responses, layers: [..]} to a job of its own and run that"
            )
        bands, height, width = source.manifest["image_shape"]
        network = open_network(job.network, bands, job.execution.precision, device)
        identity = {"network": network_identity(job.network, network)}
        check_same(run, job, identity, source.manifest["device"])
        try:
            check_relus(network, (bands, height, width), "the deconvnet projection")
            note = ""
        except ValueError as error:
            note = str(error)
        return cls(source, job, method, network, (bands, height, width), note)

    def write(self, folder: Path, on_progress: Progress | None) -> list[str]:
        """Write store and pictures, and return the pictures' names."""
        rectangles = input_rectangles(self.network, self.image_shape, self.method.layers)
        lists = [
            find_list(self.source, layer, self.method.k, rectangles[layer])
            for layer in self.method.layers
        ]
        if not any(found.rows.size for found in lists):
            raise RefusedError(
                f"{self.source.path}: no object has results, so nothing responds; see its "
                "quarantine.csv"
            )
        attributes = {
            "run": self.source.name,
            "results_digest": self.source.manifest["results_digest"],
            "k": self.method.k,
            "note": self.note,
        }
        root = zarr.open_group(folder / "top.zarr", mode="w", attributes=attributes)
        filters, done, figures = sum(len(found.value) for found in lists), 0, []
        for found in lists:
            images = ObjectImages(self.source.path, self.job, self.image_shape[0], found.rows)
            store = LayerStore(root, found, images.ids, self.image_shape[0], not self.note)
            for count in self._write_pixels(store, found, images):
                done += count
                if on_progress is not None:
                    on_progress(done, filters)
            for name, picture in self._pictures(store, found):
                (folder / name).write_bytes(picture)
                figures.append(name)
        consolidate(root)
        return figures

    def _write_pixels(
        self, store: LayerStore, found: TopList, images: ObjectImages
    ) -> Iterator[int]:
        """Write the crops and projections of a layer; give the number of filters of each step."""
        for start in range(0, len(found.value), TOGETHER):
            some = found.part(start, start + TOGETHER)
            filters, ranks = np.nonzero(some.present)
            rows = some.object[filters, ranks].tolist()
            if rows:
                by_row = images.read(rows)
                places = np.column_stack([filters + start, some.position[filters, ranks]])
                activations = Activations(found.layer, [by_row[row] for row in rows], places)
                self._check_values(some, activations, images.ids)
                pixels = {"crop": np.stack(activations.images)}
                if not self.note:
                    projected = activations.projections(self.network, self._rows)
                    pixels["projection"] = round_mantissa(projected.astype(np.float32))
                for name, values in pixels.items():
                    crops = some.crops(values, found.crop_shape)
                    store.pixels[name][start : start + len(crops)] = crops
            yield len(some.value)

    def _check_values(
        self, some: TopList, activations: Activations, ids: Mapping[int, str]
    ) -> None:
        """Refuse images whose responses are not those of the run."""
        expected = some.value[some.present]
        values = activations.values(self.network, self._rows)
        tolerance = _SAME * float(np.abs(expected).max()) + _NOTHING
        wrong = ~(np.abs(values - expected) <= tolerance)
        if wrong.any():
            first = int(wrong.argmax())
            row = int(some.object[some.present][first])
            raise RefusedError(
                f"object {ids[row]!r}: filter {activations.places[first, 0]} of {some.layer} "
                f"responds with {values[first]:.6g}, in the run it was {expected[first]:.6g}, so "
                "its image changed; restore it, or run the job again"
            )

    @property
    def _rows(self) -> int:
        return self.job.execution.micro_batch

    def _pictures(self, store: LayerStore, found: TopList) -> Iterator[tuple[str, bytes]]:
        """Draw a layer's filters, a page at a time."""
        look = Look(self.source.origin, blue_first=self.job.survey.format not in PICTURES)
        for start in range(0, len(found.value), _PAGE):
            stop = min(start + _PAGE, len(found.value))
            drawn = draw_top(
                {name: np.asarray(pixels[start:stop]) for name, pixels in store.pixels.items()},
                f"{self.source.name}: layer {found.layer}, filters {start} to {stop - 1}",
                look,
                first=start,
            )
            yield f"{safe_name(found.layer)}-{start:04d}.png", drawn
