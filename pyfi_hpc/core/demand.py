"""Whether one more allocation would find enough to do: work and ranks compared, in rank-seconds.

Work is tasks times their mean durations. Of a function of which no task has ended yet each task counts for as long as
the first ones have been running: so one allocation probes it, and long tasks are found out while they run. Ranks count
for the seconds that they are there: from the expected start of an allocation to its walltime.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pyfi_hpc.core import fits
from pyfi_hpc.model.allocations import AllocationRequest, Pool
from pyfi_hpc.model.elastic import UNTOLD, Backlog, Shape, Work

#: of sbatch, which count GPUs
_GPU_OPTIONS = re.compile(r"--(gres|gpus-per-node|gpus-per-task)=(.+)")


@dataclass(frozen=True, slots=True)
class Supply:
    """Ranks that are there, or on the way: from when until when, seconds from now."""

    ranks: int
    start_s: float = 0.0
    end_s: float = float("inf")

    def until(self, s: float) -> float:
        """Rank-seconds from now until then."""
        return self.ranks * max(0.0, min(self.end_s, s) - self.start_s)

    def at(self, s: float) -> int:
        return self.ranks if self.start_s <= s < self.end_s else 0


@dataclass(slots=True)
class Demand:
    """What a pool could do of the backlog."""

    #: tasks that nobody has yet, and that nodes have
    ready: int = 0
    granted: int = 0
    #: rank-seconds
    work_s: float = 0.0
    #: ranks that could work at once, for the limits of jobs and sockets
    width: int = 0
    #: tasks whose duration nobody knows yet
    unknown: int = 0
    #: tasks that take longer than the walltime allows, or need what the pool has not
    too_long: int = 0
    unfit: int = 0

    @property
    def words(self) -> str:
        text = f"{self.ready} tasks are ready and {self.granted} with nodes: about {self.work_s:.0f} rank-seconds"
        if self.unknown:
            text += f"; {self.unknown} of functions that have not been timed yet"
        if self.too_long:
            text += f"; {self.too_long} more take longer than the walltime allows"
        if self.unfit:
            text += f"; {self.unfit} more need what an allocation of this pool does not have"
        return text


def ranks_of(work: Work, pool: Pool) -> int:
    """How many ranks of an allocation of this pool one task takes."""
    return work.ranks * (pool.request.ntasks_per_node if work.exclusive else work.cores)


def shape_of(request: AllocationRequest) -> Shape:
    """What the allocation has."""
    return Shape(request.ntasks_per_node, request.nodes * request.ntasks_per_node, _gpus_per_node(request))


def _gpus_per_node(request: AllocationRequest) -> int:
    found = request.gpus_per_node or 0
    for option in (*request.extra, request.constraint):
        told = _GPU_OPTIONS.fullmatch(option)
        if told is None:
            found = max(found, UNTOLD if "gpu" in option else 0)
            continue
        name, value = told.groups()
        kinds = [kind for kind in value.split(",") if name != "gres" or re.match(r"gpu\b", kind)]
        counts = [kind.rpartition(":")[2] for kind in kinds]  # TYPE:COUNT, or one of them
        count = sum(int(count) if count.isdigit() else 1 for count in counts)
        found = max(found, count * (request.ntasks_per_node if name == "gpus-per-task" else 1))
    return found


def unfit(work: Work, pool: Pool, cannot: Collection[str]) -> bool:
    """Whether an allocation of this pool cannot give what the tasks need, as far as is known.

    What its nodes have besides ranks is known when one has joined: ``cannot`` names what could not run there.
    """
    shape = shape_of(pool.request)
    cores = shape.ranks_per_node if work.exclusive else work.cores
    return fits.seats(shape, cores, work.gpu_thousandths) < work.ranks or work.key in cannot


def too_long(work: Work, pool: Pool) -> bool:
    return work.mean_s is not None and work.mean_s > pool.usable_s


def demand_of(
    backlog: Backlog, pool: Pool, running_s: Mapping[str, float], cannot: Collection[str] = frozenset()
) -> Demand:
    """What of the backlog fits an allocation of this pool.

    Parameters
    ----------
    running_s
        For how long the first tasks of functions that have not been timed have been running, by socket.
    cannot
        See `unfit`.
    """
    found = Demand()
    for work in backlog.work:
        if unfit(work, pool, cannot):
            found.unfit += work.ready
            continue
        if too_long(work, pool):
            found.too_long += work.ready
            continue
        mean_s = work.mean_s
        if mean_s is None:
            mean_s = running_s.get(work.socket, 0.0)
            found.unknown += work.ready + work.granted
        ranks = ranks_of(work, pool)
        found.ready += work.ready
        found.granted += work.granted
        # what is with nodes is half done, on average
        found.work_s += mean_s * ranks * (work.ready + work.granted / 2)
        found.width += ranks * (work.room + work.granted)
    return found


def worth(pool: Pool, demand: Demand, supplies: Iterable[Supply], wait_s: float) -> tuple[bool, str]:
    """Whether one more allocation, which starts in ``wait_s``, finds enough to do; and the reason in words."""
    supplies = list(supplies)
    if not demand.ready:
        return False, "nothing is ready that nobody has"
    there = sum(supply.at(wait_s) for supply in supplies)
    when = f"in {wait_s:.0f} s, when it would start, " if wait_s >= 1.0 else ""
    left_s = demand.work_s - sum(supply.until(wait_s) for supply in supplies)
    if not there:
        done = not demand.unknown and left_s <= 0.0
        text = f"{when}what is there now will have done all of it" if done else f"{when}no rank is there for it"
        return not done, text
    if demand.width <= there:
        return False, f"{when}{there} ranks are there, and {demand.width} may work at once"
    each_s = max(0.0, left_s) / (there + pool.ranks)
    known = " known" if demand.unknown else ""
    text = f"{when}{each_s:.0f} s of{known} work would be left for each of {there} ranks and its own {pool.ranks}"
    if each_s < pool.worth_s:
        return False, f"{text}, under {pool.worth_s:.0f} s"
    return True, text
