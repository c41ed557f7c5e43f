"""From a run folder to its survey-wide maps, on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.errors import StorageError
from cluster.place import Place
from cluster.remote import S3Path

from ..errors import RefusedError
from ..products import new_folder
from ..specs.maps import MapsSpec
from .aggregate import Progress, RunSums, find_groups, sum_run
from .figures import draw_mean_attribution, draw_sky
from .fits import write_sky_fits
from .healpix import SkyTable, finish_sky, quantities
from .objects import PREDICTED, check_group_by
from .product import MapsProduct, write_store
from .source import RunSource, open_source
from .stacks import MeanAttribution, finish_stack

MAPS = "maps"
"""Folder of the maps inside the run folder."""


def build_maps(
    run_path: Place,
    spec: MapsSpec,
    *,
    partial: bool = False,
    on_progress: Progress | None = None,
) -> MapsProduct:
    """Aggregate a run into sky maps and mean attribution maps, and write them to RUN/maps.

    Parameters and errors are those of `aggregate_maps`; besides:

    Raises
    ------
    StorageError
        If the maps can't be written.
    """
    product = aggregate_maps(run_path, spec, partial=partial, on_progress=on_progress)
    _write(product)
    return product


def aggregate_maps(
    run_path: Place,
    spec: MapsSpec,
    *,
    partial: bool = False,
    on_progress: Progress | None = None,
) -> MapsProduct:
    """Aggregate a run into sky maps and mean attribution maps, in memory.

    The store is read lazily in blocks of whole shards on Dask's threads; memory grows with the
    number of threads, sky cells and groups, not with the number of objects. The same store gives
    the same bits.

    Parameters
    ----------
    run_path : folder of an attribution run
    spec : resolution and grouping
    partial : aggregate an unfinished run, too; its maps are marked as partial
    on_progress : told the number of blocks done and of all blocks

    Raises
    ------
    RefusedError
        If this is no attribution run, it is not finished, or the grouping can't be done.
    VerificationError
        If objects that should have results have none: a shard is lost.
    StorageError
        If the store can't be read.
    """
    source = open_source(run_path)
    if not source.finished and not partial:
        raise RefusedError(
            f"{run_path}: the run is not finished, its maps would miss objects; finish it with "
            f"`occulta resume {run_path}`, or map what there is with --partial"
        )
    check_group_by(source, spec.group_by)
    group_by, notes = spec.group_by, []
    groups = find_groups(source, group_by)
    if not groups:
        notes.append(
            f"No object has a value of {group_by}: attributions are stacked by predicted class."
        )
        group_by, groups = PREDICTED, source.classes
    sums = sum_run(source, spec.nside, group_by, groups, on_progress)
    sky = finish_sky(sums.sky, quantities(source), spec.nside, spec.min_count)
    stacks = {
        name: finish_stack(source, array, sums.stacks[name], groups)
        for name, array in source.maps.items()
    }
    return MapsProduct(
        path=run_path / MAPS,
        run=source.name,
        survey=survey_name(source),
        sky=sky,
        stacks=stacks,
        group_by=group_by,
        origin=source.origin,
        objects=source.objects,
        mapped=int(sky.count.sum()),
        left_out={reason: n for reason, n in sums.left_out.items() if n},
        notes=(*notes, *_missing(source, sums, sky, stacks)),
        partial=not source.finished,
        results_digest=str(source.manifest.get("results_digest") or ""),
    )


def survey_name(source: RunSource) -> str:
    """Name the survey of a run: as the job file does, else after the run."""
    survey = source.job.get("survey")
    name = survey.get("name") if isinstance(survey, Mapping) else None
    return str(name or source.name)


def figure_title(product: MapsProduct, subject: str) -> str:
    """Return a title: what, of which survey, of how many objects, and whether it is all of them."""
    unfinished = ", partial" if product.partial else ""
    return f"{product.survey}: {subject} (N = {product.mapped:,}{unfinished})"


def _missing(
    source: RunSource, sums: RunSums, sky: SkyTable, stacks: Mapping[str, MeanAttribution]
) -> list[str]:
    """Say what a reader might look for and not find."""
    notes = []
    if not any(not quantity.of_map for quantity in source.quantities.values()):
        notes.append("No maps of uncertainty: the job has no mc_dropout.")
    if "accuracy" not in sky.means:
        notes.append("No map of accuracy: no object on the sky has a label that is a class.")
    if not len(sky.cells):
        notes.append("The sky maps are empty: no complete object has a position.")
    if not stacks:
        notes.append("No mean attributions: the job has no method with a map per object.")
    if stacks and sums.ungrouped:
        notes.append(f"{sums.ungrouped:,} complete objects belong to no group and no stack.")
    return notes


def _write(product: MapsProduct) -> None:
    """Write everything beside the old maps, then put it in their place."""
    if isinstance(product.path, S3Path):
        with new_folder(product.path) as folder:
            _fill(product, folder)
        return
    fresh = product.path.with_name(f".{MAPS}-{os.getpid()}")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        _fill(product, fresh)
        product.path.mkdir(exist_ok=True)
        for entry in sorted(fresh.iterdir()):
            _replace(entry, product.path / entry.name)
    except OSError as error:
        raise StorageError(
            f"{product.path}: the maps can't be written ({error.strerror or error}); free space "
            "or make the run folder writable, then run the same command"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _fill(product: MapsProduct, folder: Path) -> None:
    write_store(product, folder / product.zarr.name)
    write_sky_fits(
        product.sky, folder / product.fits.name, run=product.run, partial=product.partial
    )
    for name, picture in _pictures(product):
        (folder / name).write_bytes(picture)


def _pictures(product: MapsProduct) -> Iterator[tuple[str, bytes]]:
    for name, quantity in product.quantities.items():
        title = figure_title(product, quantity.long_name)
        yield f"{name}.png", draw_sky(product.sky, name, title)
    unfinished = ", partial" if product.partial else ""
    for name, stack in product.stacks.items():
        target = f", target {stack.target}" if stack.target else ""
        title = (
            f"{product.survey}: mean {name.replace('_', ' ')} by {product.group_by}{target} "
            f"(N = {int(stack.number.sum()):,}{unfinished})"
        )
        picture = draw_mean_attribution(stack, title, origin=product.origin)
        yield f"mean_attribution_{name}.png", picture


def _replace(new: Path, old: Path) -> None:
    if old.is_dir():
        shutil.rmtree(old)
    new.replace(old)


def spec_of(job: Mapping[str, Any]) -> MapsSpec:
    """Return the maps section of a resolved job file."""
    return MapsSpec.model_validate(job.get("maps") or {})
