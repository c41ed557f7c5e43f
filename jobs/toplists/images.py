"""The images of a run's objects as its network saw them, by row of its catalogue."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster.place import Place

from ..errors import RefusedError
from ..run.catalogue import StoredCatalogue
from ..run.status import STORE
from ..specs.jobs import AttributionJob
from ..survey import Catalogue, Cutout, Preprocess, open_reader

_ROWS = 65536
"""Rows of the catalogue that are read together."""


class ObjectImages:
    """Read network inputs of the objects of a run.

    Parameters
    ----------
    run : run folder
    job : its job
    bands : number of bands of every cutout
    rows : rows of the catalogue that may be asked for
    """

    def __init__(
        self, run: Place, job: AttributionJob, bands: int, rows: NDArray[np.integer]
    ) -> None:
        self._rows = np.unique(rows)
        stored = StoredCatalogue(run / STORE)
        pieces = []
        for block in np.unique(self._rows // _ROWS):
            here = self._rows[self._rows // _ROWS == block]
            catalogue, _ = stored.read(int(here[0]), int(here[-1]) + 1)
            pieces.append(catalogue.take(here - here[0]).table)
        self._catalogue = Catalogue.from_table(pa.concat_tables(pieces))
        self._reader = open_reader(job.survey, bands)
        self._preprocess = Preprocess(job.network.preprocess, bands)
        self.ids = dict(zip(self._rows.tolist(), self._catalogue.ids, strict=True))
        """Identifiers by row."""

    def read(self, rows: Iterable[int]) -> dict[int, NDArray[np.float32]]:
        """Return the network inputs (c, h, w) of some objects by row.

        Raises
        ------
        RefusedError
            If one can't be read any more.
        """
        wanted = np.unique(np.array(list(rows), dtype=np.int64))
        answers = self._reader.read(self._catalogue.take(np.searchsorted(self._rows, wanted)))
        images = {}
        for row, answer in zip(wanted.tolist(), answers, strict=True):
            if not isinstance(answer, Cutout):
                raise RefusedError(
                    f"object {self.ids[row]!r} can't be read any more: {answer.reason}; restore it "
                    "as it was when the run was made"
                )
            images[row] = self._preprocess.apply(answer.pixels)
        return images
