"""The survey's own pixels of a few objects, for the pictures of galaxies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.place import Place

Image = NDArray[np.float32]
ReadPixels = Callable[[Place, Sequence[int]], list[Image | None]]
"""From a run folder and rows of its catalogue to images (c, h, w), the reddest band first."""


def read_survey_pixels(run: Place, indices: Sequence[int]) -> list[Image | None]:
    """Read images of a run's objects from its survey.

    Parameters
    ----------
    run : run folder
    indices : rows of the run's catalogue

    Returns
    -------
    An image (c, h, w) per index, the reddest band first; None where it can't be read any more.
    The report is then without pictures of galaxies, and otherwise whole.
    """
    # The readers of surveys, and what they import, are needed for this alone.
    from ..errors import RefusedError  # noqa: PLC0415
    from ..run.catalogue import StoredCatalogue  # noqa: PLC0415
    from ..specs.plain_yaml import parse_yaml  # noqa: PLC0415
    from ..specs.survey import PICTURES, SurveySpec  # noqa: PLC0415
    from ..survey import Cutout, open_reader  # noqa: PLC0415

    text = (run / "job.yaml").read_text(encoding="utf-8")
    job: dict[str, Any] = parse_yaml(text, "job.yaml")
    try:
        spec = SurveySpec.model_validate(job["survey"])
        reader = open_reader(spec)
    except (RefusedError, ValueError):
        return [None] * len(indices)
    stored = StoredCatalogue(run / "results.zarr")
    images: list[Image | None] = []
    for index in indices:
        (answer,) = reader.read(stored.read(index, index + 1)[0])
        images.append(answer.pixels if isinstance(answer, Cutout) else None)
    # Bands of flux come from blue to red; pictures are red, green, blue already.
    flip = spec.format not in PICTURES
    return [image[::-1] if image is not None and flip else image for image in images]
