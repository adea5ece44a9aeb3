"""The run at scale: one broker and a thousand agents as they ship, a hundred thousand cheap ranks, no faults.

What is imagined: ranks (a Done after the task's seconds), the network (a delay; messages are passed on without being
encoded) and the ledger (in memory). What is measured is therefore what the machines and the heap cost on one core:
every message and record is decided by the shipping code."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable
from typing import Any

from pyfi_hpc.sim.checks import check
from pyfi_hpc.sim.cluster import Cluster, Plan

#: of one imagined node
RANKS_PER_NODE = 100
#: a client sends them so, as ours cuts maps
BATCH_TASKS = 10_000
#: of each task
SECONDS = "1"
#: between two beats of a rank: it may be silent for ten
_RANK_BEAT_S = 4.0
#: what comes to one process within so long is one round of its loop, seconds: as when it is busy
_ROUND_S = 0.001


def run(ranks: int, tasks: int, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Start the ranks, run one map over them, look that each task was settled once.

    Notes
    -----
    Cost: about 60 us a task, of which a third is the broker's; 1 GiB for 100,000 ranks and a million tasks.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    begun = time.perf_counter()
    try:
        return _run(ranks, tasks, progress or (lambda text: None), begun)
    finally:
        gc.enable()
        gc.unfreeze()


def _run(ranks: int, tasks: int, progress: Callable[[str], None], begun: float) -> dict[str, Any]:
    nodes = -(-ranks // RANKS_PER_NODE)
    each = -(-ranks // nodes)
    cluster = Cluster(0, Plan(nodes=nodes, ranks_per_node=each, real_ranks=False, rank_beat_s=_RANK_BEAT_S))
    cluster.audited = cluster.net.codec = False
    for host in (cluster.broker, *cluster.agents.values()):
        assert host is not None
        host.round_s = _ROUND_S
    cluster.run_for(1.5)
    started = time.perf_counter()
    progress(f"{nodes * each} ranks are there after {started - begun:.1f} s")
    virtual = cluster.now
    client = cluster.join()
    sizes = [min(BATCH_TASKS, tasks - at) for at in range(0, tasks, BATCH_TASKS)]
    client.submit_batches([[SECONDS] * size for size in sizes], [b""] * len(sizes))
    sink = client.sinks[0]
    while not sink.feed.complete:
        cluster.run_for(0.5)
        progress(f"{sink.feed.count} of {tasks} tasks, {time.perf_counter() - started:.0f} s")
    virtual, steps = cluster.now - virtual, cluster.steps
    wall = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cluster.run_for(1.0)
    check(cluster)
    return {
        "ranks": nodes * each, "nodes": nodes, "tasks": tasks, "attempts": len(cluster.executed),
        "decisions": cluster.decisions, "decisions_per_s": round(cluster.decisions / wall),
        "tasks_per_s": round(tasks / wall),
        "steps": steps, "virtual_s": round(virtual, 2), "start_s": round(started - begun, 2), "wall_s": round(wall, 2),
        "memory_mib": memory // 1024,
    }  # fmt: skip
