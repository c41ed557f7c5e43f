"""Processes of the cluster that make one fit together, by Ray Train."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any, TypeVar

# Before Ray: it sets what Ray reads when it is imported.
from .ray_cluster import ray_cluster  # noqa: F401

# isort: split
import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchTrainer

Answer = TypeVar("Answer")


class _Box:
    """Holds what the first process has to say until somebody asks."""

    def __init__(self) -> None:
        self._content: list[Any] = []

    def put(self, content: Any) -> None:
        self._content.append(content)

    def take(self) -> list[Any]:
        return self._content


def run_group(
    function: Callable[[], Answer], processes: int, cpus: float, gpus: float = 0
) -> Answer:
    """Call a function in several processes that have a group of torch.distributed.

    The group talks by NCCL where the processes have GPUs, and by Gloo elsewhere. Nothing is tried
    again: whoever asked for it does that.

    Parameters
    ----------
    function : called in each process; it travels there
    processes : how many
    cpus, gpus : what each process has

    Returns
    -------
    What the first process returned.

    Raises
    ------
    Exception
        What the first process raised, or what Ray Train has to say of the loss of one.
    """
    box = ray.remote(num_cpus=0)(_Box).remote()

    def work() -> None:
        first = get_context().get_world_rank() == 0
        try:
            answer: Any = function()
        except Exception as error:
            if first:
                ray.get(box.put.remote(error))
            raise
        if first:
            ray.get(box.put.remote(answer))

    resources = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    with tempfile.TemporaryDirectory(prefix="occulta-") as folder:
        trainer = TorchTrainer(
            work,
            scaling_config=ScalingConfig(
                num_workers=processes, use_gpu=gpus > 0, resources_per_worker=resources
            ),
            run_config=RunConfig(storage_path=folder, failure_config=FailureConfig(max_failures=0)),
        )
        failure = None
        try:
            trainer.fit()
        except Exception as error:
            failure = error
    for answer in ray.get(box.take.remote()):
        if isinstance(answer, Exception):
            raise answer
        found: Answer = answer
        return found
    assert failure is not None
    raise failure
