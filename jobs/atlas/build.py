"""From runs with `activation_atlas` to an atlas of each layer: arrays and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from attribution.layers import safe_name
from cluster.place import Place

from ..errors import RefusedError
from ..maps.aggregate import Progress
from ..products import new_folder
from .icons import STEPS, Painter
from .layer import LayerAtlas
from .layout import require_umap
from .surveys import open_surveys

ATLAS = "atlas"
"""Folder of the atlas inside the run folder."""


@dataclass(frozen=True)
class AtlasSettings:
    """What can be chosen of an atlas."""

    layers: tuple[str, ...] = ()
    """Names of layers; all that the first run has, if none is named."""
    cells: int = 20
    """Cells along a side of the square."""
    minimum: int = 10
    """A cell is shown if it has more activations than this."""
    icons: bool = True
    """Whether each cell gets an icon."""
    steps: int = STEPS
    """Steps of gradient ascent for each icon."""

    def __post_init__(self) -> None:
        for name, least in (("cells", 1), ("minimum", 0), ("steps", 1)):
            if getattr(self, name) < least:
                raise RefusedError(f"{name} is {getattr(self, name)}; choose {least} or more")


@dataclass(frozen=True)
class AtlasProduct:
    """The atlas of each layer, and where they were written."""

    stores: tuple[Place, ...]
    """A Zarr store for each layer."""
    figures: tuple[Place, ...]
    """The pictures."""
    notes: tuple[str, ...]
    """What a reader should know; one sentence each."""


@dataclass(frozen=True)
class Listener:
    """Whom to tell how far an atlas is."""

    say: Callable[[str], None] = field(default=lambda _: None)
    """Told what happens next."""
    on_icon: Progress | None = None
    """Told the number of icons of a layer done, and of all."""


def build_atlas(
    run: Place,
    others: Sequence[Place] = (),
    settings: AtlasSettings = AtlasSettings(),
    *,
    device: str = "cpu",
    listener: Listener = Listener(),
) -> AtlasProduct:
    """Make the activation atlas of one run, or of several in one layout, and write it to RUN/atlas.

    Parameters
    ----------
    run : folder of a finished attribution run whose job has the method activation_atlas
    others : folders of further runs with the same network
    settings : layers, cells, icons
    device : where the network draws icons, ``cpu`` or ``cuda``
    listener : told how far it is

    Raises
    ------
    RefusedError
        If umap-learn is not installed, a run has no activations or those of another network, or
        they are too few.
    VerificationError
        If a shard is lost.
    StorageError
        If the survey can't be read, or the atlas can't be written.
    """
    require_umap()
    surveys = open_surveys(run, others, settings.layers)
    painter = Painter.of(surveys[0], settings.steps, device) if settings.icons else None
    layers = list(dict.fromkeys(settings.layers or surveys[0].layers))
    figures: list[str] = []
    notes: list[str] = []
    with new_folder(run / ATLAS) as folder:
        for layer in layers:
            listener.say(f"laying out the activations of layer {layer}")
            atlas = LayerAtlas.of(surveys, layer, (settings.cells, settings.minimum), folder)
            if painter is not None:
                listener.say(f"drawing {atlas.populated:,} icons of layer {layer}")
                atlas.draw(painter, listener.on_icon)
            for name, picture in atlas.pictures():
                (folder / name).write_bytes(picture)
                figures.append(name)
            notes += atlas.notes
    return AtlasProduct(
        tuple(run / ATLAS / f"{safe_name(layer)}.zarr" for layer in layers),
        tuple(run / ATLAS / name for name in figures),
        tuple(notes),
    )
