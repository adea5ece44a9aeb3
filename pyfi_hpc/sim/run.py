"""One seeded run: a seed makes a cluster, its work and its faults; a storm, then calm, then all is looked at.

The same seed gives the same run, to the last byte of the ledger: a failure is told again by its number alone.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pyfi_hpc.model.ids import task_name
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.sim import workload
from pyfi_hpc.sim.checks import check, look, replay
from pyfi_hpc.sim.client import ClientHost
from pyfi_hpc.sim.cluster import Cluster, Plan
from pyfi_hpc.sim.failure import Violation
from pyfi_hpc.sim.faults import Faults
from pyfi_hpc.sim.story import Story

#: between two looks at the tables, and between two replays of the log, virtual seconds
_LOOK_S, _REPLAY_S = 0.5, 6.0
#: after everything is healed each process has noticed within so long, virtual seconds
_CALM_S = 20.0
#: then no rank is idle for so long while a task is ready, virtual seconds
_IDLE_S = 4.0
#: a lease, or an outcome that is offered again, is over after this, virtual seconds
_LEASES_S = 16.0
#: a client that has gone is missed after twice its silence; then all jobs are closed, virtual seconds
_ORPHANS_S = 130.0


@dataclass(slots=True)
class Result:
    """What a run was like."""

    seed: int
    tasks: int
    jobs: int
    attempts: int
    faults: Counter[str]
    virtual_s: float
    steps: int
    #: of the ledger's log and of all starts of tasks
    digest: str


def run_seed(seed: int, story: Story | None = None, cluster_class: type[Cluster] = Cluster) -> Result:
    """Run one seed.

    Raises
    ------
    Violation
        A promise does not hold; it names the task.
    """
    return make(seed, story, cluster_class).go()


def make(seed: int, story: Story | None = None, cluster_class: type[Cluster] = Cluster) -> Run:
    chance = random.Random(f"plan {seed}")
    return Run(cluster_class(seed, _plan(chance), _limits(chance), story), chance)


def _plan(chance: random.Random) -> Plan:
    troubled = chance.random() < 0.3
    return Plan(
        nodes=chance.randrange(1, 4), ranks_per_node=chance.randrange(1, 4),
        latency_s=chance.choice([0.0001, 0.0005, 0.005]), commit_s=chance.choice([0.0005, 0.002, 0.02]),
        slow_start=chance.choice([0.0, 0.1]), code_missing=0.1 if troubled else 0.0,
        import_fails=0.03 if troubled else 0.0, skew_s=chance.choice([0.0, 1e6]), slurm=chance.random() < 0.4,
        one_world=chance.random() < 0.3,
    )  # fmt: skip


def _limits(chance: random.Random) -> Limits:
    """Small ones show what happens there. As in production, what one task takes as arguments fits into what is kept."""
    if chance.random() < 0.6:
        return Limits()
    return Limits(
        queued_payload_bytes_max=300, value_bytes_max=120, inputs_bytes_max=90, grant_tasks_max=8,
        node_bytes_max=100, bundle_tasks_max=4, client_window_bytes_max=2000, ended_keys_max=2, batch_bytes_goal=200,
        grant_bytes_max=60,
    )  # fmt: skip


class Run:
    """A storm of work and faults over a cluster, and what must hold after it."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self.cluster = cluster
        self._chance = chance
        self._faults = Faults(cluster, chance)
        self._idle_since = float("inf")
        self._calm_at = float("inf")
        self._healed = False

    def go(self) -> Result:
        try:
            self._storm()
            self._calm()
        except Violation:
            raise
        except AssertionError as error:  # of the ledger in memory: what Postgres would refuse by a constraint
            raise Violation(str(error)) from error
        return self._result()

    def _storm(self) -> None:
        cluster, chance = self.cluster, self._chance
        for number in range(chance.randrange(1, 4)):
            cluster.join(f"c{number + 1}")
        storm_s = chance.uniform(4.0, 30.0)
        for _ in range(chance.randrange(2, 16)):
            cluster.at(chance.random() * storm_s, workload.order, cluster, chance)
        # some runs are calm, some are hopeless until the end
        for _ in range(chance.randrange(0, chance.choice([8, 16, 50]))):
            cluster.at(chance.random() * storm_s, self._faults.strike)
        self._watch(storm_s, lambda: False)

    def _calm(self) -> None:
        """All faults end: everything becomes final within a bounded time, and nothing is left behind."""
        cluster = self.cluster
        self._faults.heal()
        self._healed = True
        self._calm_at = cluster.now + _CALM_S
        limit_s = 100.0 + 3.0 * self._work_s() / max(1, cluster.plan.ranks_per_node)
        if not self._watch(limit_s, self._done):
            self._starved(limit_s)
        self._watch(2.0, lambda: False)
        self._watch(_LEASES_S, self._unleased)
        if any(not job_closed for job_closed in self._closed()):
            self._watch(_ORPHANS_S, lambda: all(self._closed()))
            self._watch(10.0, lambda: False)
        look(cluster)
        check(cluster)

    def _watch(self, seconds: float, done: Callable[[], bool]) -> bool:
        """Let so much time pass, looking at everything now and then."""
        cluster = self.cluster
        end = cluster.now + seconds
        replay_at = cluster.now + _REPLAY_S
        while cluster.now < end:
            cluster.run_for(min(_LOOK_S, end - cluster.now))
            look(cluster)
            if self._healed:  # again and again: a request to hold may have been on its way
                workload.release_all(cluster)
                self._faults.keep_nodes()
            if cluster.now >= replay_at:
                replay_at = cluster.now + _REPLAY_S
                replay(cluster)
            if cluster.now >= self._calm_at:
                self._look_at_idle_ranks()
            if done():
                return True
        return False

    def _done(self) -> bool:
        cluster = self.cluster
        return (
            not any(client.unacknowledged for client in cluster.clients if not client.dead)
            and not cluster.audit.open_tasks()
            and all(self._served(client) for client in cluster.clients if not client.dead)
        )

    def _served(self, client: ClientHost) -> bool:
        """Every result that is final has reached a client that lives; its job may lack its end."""
        audit = self.cluster.audit
        sinks = [sink for sink in client.sinks if sink.error is None and sink.job]
        return all(sink.feed.count == audit.count(sink.job) for sink in sinks)

    def _unleased(self) -> bool:
        """Nobody owes an outcome: what was cancelled is final before its node has answered, or its lease has ended."""
        broker = self.cluster.broker
        return broker is not None and not broker.machine.state.nodes.grants

    def _closed(self) -> list[bool]:
        store = self.cluster.store
        return [any(store.batches[b].last for b in batches) for batches in store.of_job.values()]

    def _look_at_idle_ranks(self) -> None:
        """No rank idles while a task is ready that it could run: one that rests cannot, a task that is tried again
        waits a while for another place, a job may be at its limit, and a task of several ranks gathers them."""
        cluster = self.cluster
        broker = cluster.broker
        queue = broker.machine.state.queue if broker is not None else None
        classes = [entry for entry in queue._classes.values() if queue._room(entry) > 0] if queue is not None else []
        if any(entry.key.terms and entry.ready for entry in classes) or self._gathering():
            self._idle_since = float("inf")
            return
        if sum(entry.ready - len(entry.retries) for entry in classes) <= 0 or not cluster.idle_ranks:
            self._idle_since = float("inf")
            return
        self._idle_since = min(self._idle_since, cluster.now)
        if cluster.now - self._idle_since > _IDLE_S:
            task = next(iter(cluster.audit.open_tasks()), None)
            raise Violation(f"{cluster.idle_ranks} ranks idle for {_IDLE_S} s while tasks are ready", task)

    def _gathering(self) -> bool:
        """Tasks with needs keep ranks until they have all of them: their time has a limit of its own."""
        broker = self.cluster.broker
        return broker is not None and any(node.stock.tasks for node in broker.machine.state.nodes.by_name.values())

    def _starved(self, limit_s: float) -> None:
        cluster = self.cluster
        for task in cluster.audit.open_tasks():
            raise Violation(f"not final {limit_s:.0f} s after the last fault", task)
        for client in cluster.clients:
            for submission in client.submissions:
                if submission.unacked and not client.dead:
                    raise Violation(f"{client.name} waits for an acknowledgement", (submission.job, 0))
            for sink in client.sinks:
                if not client.dead and not self._served(client):
                    raise Violation(f"{client.name} lacks results of job {sink.job}", (sink.job, sink.feed.frontier))

    def _work_s(self) -> float:
        """What all tasks take if each makes three attempts."""
        store = self.cluster.store
        return sum(3.5 * batch.count for batch in store.batches.values()) / 4 + len(store.batches)

    def _result(self) -> Result:
        cluster = self.cluster
        digest = hashlib.sha256()
        for record in cluster.store.log:
            digest.update(repr(record).encode())
        digest.update(repr(cluster.executed).encode())
        tasks = sum(batch.count for batch in cluster.store.batches.values())
        return Result(
            cluster.seed, tasks, len(cluster.store.jobs), len(cluster.executed), cluster.faults, cluster.now,
            cluster.steps, digest.hexdigest()[:16],
        )  # fmt: skip


def story_of(seed: int, job: int, index: int) -> tuple[list[str], Violation | None]:
    """Run a seed again and tell the story of one task."""
    story = Story()
    problem = None
    try:
        run_seed(seed, story)
    except Violation as error:
        problem = error
    lines = list(story.of(job, index))
    return [f"task {task_name(job, index)} of seed {seed}", *lines], problem
