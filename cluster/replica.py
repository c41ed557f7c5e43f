"""One replica: a workload opened once, computing and writing units. Plain Python, no Ray."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

import torch

from .calls import Call, MemoryShortError, WorkFailedError
from .errors import OccultaError, StorageError
from .place import Place
from .store import ShardWriter
from .text import one_line, redact
from .unit import Receipt, WorkUnit
from .workload import UnitResult, Workload


class Replica:
    """Computes units and writes their shards.

    Parameters
    ----------
    workload : what to do; opened here
    store : where the result store is

    Raises
    ------
    OccultaError
        If the workload can't be opened.
    """

    def __init__(self, workload: Workload, store: Place) -> None:
        try:
            self._work = workload.open()
        except OccultaError:
            raise
        except Exception as error:
            raise OccultaError(f"a replica could not start: {_in_one_line(error)}") from error
        self._writer = ShardWriter(store, workload.template)
        self._worker = f"{socket.gethostname()}:{os.getpid()}"

    def answer(self, call: Call, partials: Sequence[Any]) -> tuple[Receipt | None, Any]:
        """Compute a whole unit, one share of its parts axis, the merge of its shares, or a probe.

        Parameters
        ----------
        call : what to compute
        partials : the results of all shares, in their order, if it is a merge

        Returns
        -------
        The receipt of what is written, or None and the share's partial result.

        Raises
        ------
        OccultaError
            That the workload raised, as it is.
        StorageError
            If the operating system refuses to read or write.
        MemoryShortError
            If there is too little memory for the unit's micro-batch.
        WorkFailedError
            If anything else went wrong.
        """
        began = time.perf_counter()
        unit = call.unit
        try:
            if call.probe is not None:
                self._work.probe(unit, call.probe)
                return None, None
            if call.share is not None:
                return None, self._work.partial(unit, call.share)
            if partials:
                return self._commit(unit, self._work.finish(unit, partials), began), None
            return self._commit(unit, self._work.compute(unit), began), None
        except OccultaError:
            raise
        except Exception as error:
            if _is_memory_short(error):
                raise MemoryShortError(_in_one_line(error)) from error
            if isinstance(error, OSError) and error.errno is not None:
                raise StorageError(
                    f"unit {unit.key}: {error}; make room or mend the access, and run again"
                ) from error
            raise WorkFailedError(_in_one_line(error)) from error

    def _commit(self, unit: WorkUnit, result: UnitResult, began: float) -> Receipt:
        shards = self._writer.write(unit.key, result.arrays, result.files)
        return Receipt(
            key=str(unit.key),
            shards=shards,
            failures=result.failures,
            left_out=result.left_out,
            inputs=result.inputs,
            forward=result.forward,
            backward=result.backward,
            seconds=round(time.perf_counter() - began, 3),
            worker=self._worker,
            attempt=unit.attempt,
            halvings=unit.halvings,
        )


def _is_memory_short(error: Exception) -> bool:
    """Tell whether an allocation failed; PyTorch says so of the CPU in words alone."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _in_one_line(error: Exception) -> str:
    return redact(one_line(": ".join([type(error).__name__, *str(error).splitlines()[:1]])))
