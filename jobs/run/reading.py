"""Runs as notebooks and other tools see them."""

from __future__ import annotations

import io
from functools import cached_property
from typing import TYPE_CHECKING

from cluster.place import Place, open_place
from cluster.reading import zarr_store

from ..errors import RefusedError
from .status import QUARANTINE, STORE, Status, read_status

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


class Run:
    """A run folder, for reading. Nothing is loaded before it is asked for.

    Parameters
    ----------
    folder : the run folder
    """

    def __init__(self, folder: Place) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"<Run {self.folder}: {self.status().state}>"

    def status(self) -> Status:
        """Tell how far the run is."""
        return read_status(self.folder)

    @cached_property
    def results(self) -> xr.DataTree:
        """The result store, one group per method, read as it is used."""
        return _open_tree(self.folder / STORE, "the run has not begun")

    @cached_property
    def maps(self) -> xr.DataTree:
        """The survey-wide maps.

        Raises
        ------
        RefusedError
            If there are none yet.
        """
        store = self.folder / "maps" / "maps.zarr"
        return _open_tree(store, f"make them with `occulta maps {self.folder}`")

    @cached_property
    def quarantine(self) -> pd.DataFrame:
        """The objects without results: id, unit, code, reason.

        Raises
        ------
        RefusedError
            If the run is not complete: the list is written at its end.
        """
        import pandas as pd  # noqa: PLC0415 - the command line needs none

        path = self.folder / QUARANTINE
        if not path.exists():
            raise RefusedError(f"{path}: not there before the run is complete; resume the run")
        return pd.read_csv(io.BytesIO(path.read_bytes()), dtype=str, keep_default_na=False)


def open_run(folder: str | Place) -> Run:
    """Open a run folder for reading.

    Raises
    ------
    RefusedError
        If there is no run in this folder.
    """
    run = Run(open_place(str(folder)))
    run.status()
    return run


def _open_tree(store: Place, cure: str) -> xr.DataTree:
    import xarray as xr  # noqa: PLC0415 - the command line needs none

    if not store.exists():
        raise RefusedError(f"{store}: does not exist; {cure}")
    return xr.open_datatree(zarr_store(store), engine="zarr", chunks=None)
