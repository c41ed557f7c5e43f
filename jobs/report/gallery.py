"""The pictures that runs have beside their numbers: filters, feature maps, class images, dreams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.place import Place

from .examples import choose_examples
from .facts import RunFacts
from .feature_figures import draw_layers, layer_arrays
from .inception_figures import draw_sections
from .tiles import diagram

MAX_PICTURES = 8
"""Pictures of one shelf on the page; the folder holds the others."""
_EXAMPLES = 4
"""Objects whose feature maps are shown."""


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows, in words."""

    uri: str
    alt: str


@dataclass(frozen=True)
class Shelf:
    """The pictures of one sort that a run has."""

    title: str
    run: str
    reading: str
    pictures: tuple[Picture, ...]
    more: str
    """Where further pictures are; empty if all are shown."""


@dataclass(frozen=True)
class _Sort:
    """A folder of pictures that a command makes of a run."""

    folder: str
    title: str
    reading: str


_SORTS = (
    _Sort(
        "compare",
        "Compared with another run",
        "Mean attribution before and after, each object's map divided by its sum of absolute "
        "values; beside it what changed, and what of that is three standard errors or more.",
    ),
    _Sort("weights", "Learned weights", "The filters of each convolution."),
    _Sort(
        "top",
        "Strongest responses",
        "For each filter the objects of the whole survey that it responds to most: the part of the "
        "image that it sees, and beside it what in that part makes it respond (deconvnet).",
    ),
    _Sort(
        "atlas",
        "Activation atlas",
        "Places of the survey that the network finds alike are close; each icon is what the mean "
        "activation of its cell stands for.",
    ),
)


def run_shelves(facts: RunFacts) -> Iterator[Shelf]:
    """Give what an attribution run has pictures of."""
    yield from network_shelves(facts.source.path, facts.name)
    if layer_arrays(facts.source):
        drawn = list(draw_layers(facts.source, _examples(facts)))
        reading = (
            "What each filter puts out for the most certain object of each class; of responses, "
            "how it changes with the place of the hidden window."
        )
        pictures = tuple(Picture(diagram(png), f"Feature maps: {name}") for name, png in drawn)
        yield Shelf("Feature maps", facts.name, reading, pictures[:MAX_PICTURES], "")


def network_shelves(run: Place, name: str) -> Iterator[Shelf]:
    """Give the pictures that commands have made in a run's folder."""
    for sort in _SORTS:
        folder = run / sort.folder
        found: list[Place] = sorted(folder.iterdir(), key=str) if folder.is_dir() else []
        files = [file for file in found if file.name.endswith(".png")]
        if files:
            shown = [
                Picture(diagram(file.read_bytes()), f"{sort.title}: {file.stem}")
                for file in files[:MAX_PICTURES]
            ]
            rest = len(files) - len(shown)
            more = f"{rest} others are in {run / sort.folder}" if rest else ""
            yield Shelf(sort.title, name, sort.reading, tuple(shown), more)


def inception_shelves(run: Place, name: str) -> Iterator[Shelf]:
    """Give the images that an inceptionism run has drawn, and those of its network."""
    for section in draw_sections(run):
        if section.method == "class_image":
            title = "Class images"
            reading = "Each image raises the score of its class as high as it goes."
        else:
            title = "Dreams"
            reading = f"Each image is changed so that the {section.grows} grows."
        picture = Picture(diagram(section.png), f"{title} of {name}: {section.group}")
        yield Shelf(title, name, reading, (picture,), "")
    yield from network_shelves(run, name)


def _examples(facts: RunFacts) -> dict[int, str]:
    """Choose objects to show, by row of the catalogue."""
    chosen: Sequence[int] = [
        int(facts.rows[example.position])
        for group in range(len(facts.classes))
        for example in choose_examples(facts, group, 1)[:1]
    ]
    return {
        row: str(facts.source.read("catalogue/id", slice(row, row + 1))[0])
        for row in chosen[:_EXAMPLES]
    }
