"""Failures that a user can act on: one line with fact, value, place and cure."""

from __future__ import annotations


class OccultaError(Exception):
    """Carry a one-line message for the user and the exit code it ends the command with."""

    exit_code = 2


class RunBusyError(OccultaError):
    """Another driver holds the run."""

    exit_code = 4


class RetriesExhaustedError(OccultaError):
    """Some unit failed at every attempt; what was committed stays and the run can be resumed."""

    exit_code = 5


class VerificationError(OccultaError):
    """What is on disk is not what the ledger says was committed."""

    exit_code = 6


class StorageError(OccultaError):
    """The run folder can't be read or written."""

    exit_code = 7


class ClusterLostError(OccultaError):
    """The Ray cluster can't be reached or went away; the run can be resumed."""

    exit_code = 8
