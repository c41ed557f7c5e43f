"""The aggregation as a Dask graph: one task per block of whole shards, merged in a fixed tree.

The tree follows the catalogue's order and never the order of arrival, so the same store gives the
same bits whatever the number of threads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dask.callbacks import Callback
from dask.delayed import delayed

from . import healpix, stacks
from .objects import (
    MAX_GROUPS,
    PREDICTED,
    count_left_out,
    encode,
    order_groups,
    read_block,
    read_groups,
    read_text,
)
from .source import COMPLETE, RunSource

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with the number of blocks done and the number of blocks."""

FAN_IN = 16
"""Partial sums merged by one task: bounds both the graph's depth and the sums held at once."""


@dataclass(frozen=True)
class RunSums:
    """Everything that is summed over a run, of one or of many blocks."""

    sky: healpix.SkySums
    """Per cell."""
    stacks: Mapping[str, stacks.StackSums]
    """Per array of maps and group."""
    left_out: Counter[str]
    """Objects that are on no sky map, by reason."""
    ungrouped: int
    """Complete objects without a group."""
    complete: int
    """Complete objects."""


def find_groups(source: RunSource, group_by: str) -> tuple[str, ...]:
    """Find the groups that a run's complete objects belong to, in the order of the classes.

    Raises
    ------
    RefusedError
        If there are too many.
    """
    if group_by == PREDICTED:
        return source.classes

    def leaf(rows: slice) -> set[str]:
        complete = source.status(rows) == COMPLETE
        return _capped(set(read_text(source, group_by, rows)[complete].tolist()))

    def merge(parts: Sequence[set[str]]) -> set[str]:
        return _capped(set().union(*parts))

    return order_groups(source, reduce_blocks(source.spans(), leaf, merge), group_by)


def sum_run(
    source: RunSource,
    nside: int,
    group_by: str,
    groups: tuple[str, ...],
    on_progress: Progress | None = None,
) -> RunSums:
    """Sum everything that the maps need in one pass over the store."""

    def leaf(rows: slice) -> RunSums:
        block = read_block(source, rows)
        code = encode(read_groups(source, block, group_by), groups)
        return RunSums(
            sky=healpix.sum_block(source, block, nside),
            stacks={
                name: stacks.sum_block(source, array, block, code, len(groups))
                for name, array in source.maps.items()
            },
            left_out=Counter(count_left_out(block)),
            ungrouped=int((block.complete & (code < 0)).sum()),
            complete=int(block.complete.sum()),
        )

    return reduce_blocks(source.spans(), leaf, _merge, on_progress)


def reduce_blocks(
    spans: Sequence[slice],
    leaf: Callable[[slice], T],
    merge: Callable[[Sequence[T]], T],
    on_progress: Progress | None = None,
) -> T:
    """Apply a function to blocks of objects on Dask's threads and merge the results as a tree.

    Parameters
    ----------
    spans : blocks in the order of the catalogue
    leaf : computes one block
    merge : merges neighbouring results, in order
    on_progress : told after each block
    """
    on_block, on_merge = delayed(leaf, pure=False), delayed(merge, pure=False)
    level: list[Any] = [
        on_block(rows, dask_key_name=f"block-{index}") for index, rows in enumerate(spans)
    ]
    depth = 0
    while len(level) > 1 or depth == 0:
        level = [
            on_merge(level[start : start + FAN_IN], dask_key_name=f"merge-{depth}-{start}")
            for start in range(0, len(level), FAN_IN)
        ]
        depth += 1
    with _BlockProgress(len(spans), on_progress):
        result: T = level[0].compute(scheduler="threads")
    return result


class _BlockProgress(Callback):
    """Translate Dask's task ends into block counts."""

    def __init__(self, blocks: int, report: Progress | None) -> None:
        super().__init__(posttask=self._after)  # type: ignore[no-untyped-call]
        self._blocks, self._report, self._done = blocks, report, 0

    def _after(self, key: str, *_: object) -> None:
        if self._report is not None and str(key).startswith("block-"):
            self._done += 1
            self._report(self._done, self._blocks)


def _merge(parts: Sequence[RunSums]) -> RunSums:
    return RunSums(
        sky=healpix.merge_sky([part.sky for part in parts]),
        stacks={
            name: stacks.merge_stacks([part.stacks[name] for part in parts])
            for name in parts[0].stacks
        },
        left_out=sum((part.left_out for part in parts), Counter()),
        ungrouped=sum(part.ungrouped for part in parts),
        complete=sum(part.complete for part in parts),
    )


def _capped(found: set[str]) -> set[str]:
    """Keep a set of group names small; one too many is enough to be refused."""
    return set(sorted(found)[: MAX_GROUPS + 2])
