"""One replica: a workload opened once, computing and writing units. Plain Python, no Ray."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import OccultaError, StorageError
from .store import ShardWriter
from .unit import Receipt, WorkUnit
from .workload import UnitResult, Workload


class WorkFailedError(Exception):
    """A unit failed; tells of its cause in one line.

    The cause itself may be of a class that another process can't import or rebuild, such as one
    that a user's network defines.
    """


class Replica:
    """Computes units and writes their shards.

    Parameters
    ----------
    workload : what to do; opened here
    store : folder of the result store

    Raises
    ------
    OccultaError
        If the workload can't be opened.
    """

    def __init__(self, workload: Workload, store: Path) -> None:
        try:
            self._work = workload.open()
        except OccultaError:
            raise
        except Exception as error:
            raise OccultaError(f"a replica could not start: {_in_one_line(error)}") from error
        self._writer = ShardWriter(store, workload.template)
        self._worker = f"{socket.gethostname()}:{os.getpid()}"

    def compute(
        self, unit: WorkUnit, share: int | None = None, partials: Sequence[Any] = ()
    ) -> tuple[Receipt | None, Any]:
        """Compute a whole unit, one share of its parts axis, or the merge of all its shares.

        Returns
        -------
        The receipt of what is written, or None and the share's partial result.

        Raises
        ------
        OccultaError
            That the workload raised, as it is.
        StorageError
            If the operating system refuses to read or write.
        WorkFailedError
            If anything else went wrong.
        """
        began = time.perf_counter()
        try:
            if partials:
                return self._commit(unit, self._work.finish(unit.key, partials), began), None
            if share is None:
                return self._commit(unit, self._work.compute(unit.key), began), None
            return None, self._work.partial(unit.key, share, unit.shares)
        except OccultaError:
            raise
        except OSError as error:
            if error.errno is None:
                raise WorkFailedError(_in_one_line(error)) from error
            raise StorageError(
                f"unit {unit.key}: {error}; make room or mend the access, and run again"
            ) from error
        except Exception as error:
            raise WorkFailedError(_in_one_line(error)) from error

    def _commit(self, unit: WorkUnit, result: UnitResult, began: float) -> Receipt:
        shards = self._writer.write(unit.key, result.arrays)
        return Receipt(
            key=str(unit.key),
            shards=shards,
            failures=result.failures,
            inputs=result.inputs,
            forward=result.forward,
            backward=result.backward,
            seconds=round(time.perf_counter() - began, 3),
            worker=self._worker,
            attempt=unit.attempt,
        )


def _in_one_line(error: Exception) -> str:
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
