"""What the network of a run learned: the filters of its convolutions, as arrays and as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from torch import nn

from attribution.layers import safe_name
from attribution.weights import DEAD, Filters, convolutions, filters
from cluster.place import Place
from training.checkpoints import load_card

from .errors import RefusedError
from .products import consolidate, new_folder, write_array
from .report.layer_figures import Look, draw_filters
from .run.folder import check_same, stored_job
from .run.status import read_manifest
from .specs.jobs import AttributionJob, InceptionismJob
from .specs.network import NetworkSpec
from .specs.survey import PICTURES
from .specs.training import TrainingJob
from .work.fit_files import CARD, FITS
from .work.fit_files import WEIGHTS as TRAINED
from .work.network import network_identity, open_network

WEIGHTS = "weights"
"""Folder of the filters inside the run folder."""

_KERNEL = ("kernel_z", "kernel_y", "kernel_x")
_LONG_NAMES = {
    "weights": "learned weights of each filter",
    "l1": "sum of the absolute weights of each filter",
    "l2": "root of the sum of the squared weights of each filter",
    "dead": "filter that learned nothing",
}
_DEAD = f"all weights are 0, or the L2 norm is below {DEAD:g} of the layer's median"


@dataclass(frozen=True)
class WeightsProduct:
    """The filters of a network, and where they were written."""

    path: Place
    """RUN/weights."""
    dead: dict[str, tuple[int, int]]
    """Dead filters and all filters, by layer."""
    figures: tuple[Place, ...]
    """A picture of each layer."""

    @property
    def zarr(self) -> Place:
        """The Zarr store, one group per layer."""
        return self.path / "weights.zarr"


def build_weights(run: Place, layers: Sequence[str] = ()) -> WeightsProduct:
    """Write the learned weights of a run's network to RUN/weights.

    The store has a group per layer with ``weights`` (filter, input, kernel_y, kernel_x), their
    norms ``l1`` and ``l2`` (filter) and ``dead`` (filter).

    Parameters
    ----------
    run : folder of an attribution or inceptionism run, or of a finished training run
    layers : names of convolutions; all of the network's by default

    Raises
    ------
    RefusedError
        If the run has no network, the network is not what it was, or a layer is no convolution.
    StorageError
        If the product can't be written.
    """
    network, look = _open(run)
    names = list(dict.fromkeys(layers)) or convolutions(network)
    if not names:
        raise RefusedError(f"{run}: the network has no convolution, so there are no filters")
    try:
        found = [filters(network, name) for name in names]
    except ValueError as error:
        raise RefusedError(f"{run}: {error}") from error
    with new_folder(run / WEIGHTS) as folder:
        root = zarr.open_group(folder / "weights.zarr", mode="w")
        for layer in found:
            _write(root, layer)
            (folder / f"{safe_name(layer.layer)}.png").write_bytes(draw_filters(layer, look))
        consolidate(root)
    return WeightsProduct(
        run / WEIGHTS,
        {layer.layer: (int(layer.dead.sum()), len(layer.dead)) for layer in found},
        tuple(run / WEIGHTS / f"{safe_name(name)}.png" for name in names),
    )


def _open(run: Place) -> tuple[nn.Module, Look]:
    """Open the network of a run, if it is what it was, and tell how its bands are shown."""
    job, manifest = stored_job(run), read_manifest(run)
    if isinstance(job, AttributionJob | InceptionismJob):
        spec, survey, precision = job.network, job.survey, job.execution.precision
    elif isinstance(job, TrainingJob):
        survey, precision = job.survey, "float32"
        if not manifest.get("results_digest"):
            raise RefusedError(f"{run}: the training is not finished: occulta resume {run}")
        if job.vary:
            raise RefusedError(f"{run}: holds several networks, in {FITS}; explain one of them")
        spec = NetworkSpec(
            architecture=job.architecture,
            weights=str(run / TRAINED),
            sha256=load_card(Path(str(run / CARD))).sha256,
            classes=job.classes,
            options=job.options,
        )
    else:
        raise RefusedError(f"{run}: a run of kind {job.kind} has no network")
    network = open_network(spec, manifest["image_shape"][0], precision)
    if not isinstance(job, TrainingJob):
        identity = {"network": network_identity(spec, network)}
        check_same(run, job, identity, manifest["device"])
    drawn = survey is not None and survey.format in PICTURES
    return network, Look("upper" if drawn else "lower", blue_first=not drawn)


def _write(root: zarr.Group, found: Filters) -> None:
    group = root.create_group(safe_name(found.layer), attributes={"layer": found.layer})
    dims = ("filter", "input", *_KERNEL[5 - found.weights.ndim :])
    arrays: dict[str, NDArray[Any]] = {
        "weights": found.weights,
        "l1": found.l1,
        "l2": found.l2,
        "dead": found.dead,
    }
    for name, values in arrays.items():
        attributes = {"long_name": _LONG_NAMES[name], "units": "1"}
        if name == "dead":
            attributes["convention"] = _DEAD
        write_array(group, name, np.ascontiguousarray(values), dims[: values.ndim], attributes)
