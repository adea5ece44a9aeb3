"""Elastic allocations in an imagined batch system: the rules one by one, then whatever seeds make of them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from elastic_world import INSTANCE, World

from pyfi_hpc.core.demand import Supply, demand_of, shape_of, worth
from pyfi_hpc.model.allocations import AllocationRequest, Pool, mark_of, pool_of
from pyfi_hpc.model.elastic import UNTOLD, Backlog, Shape, Work


def world(seed: int = 1, **pool: object) -> World:
    """A world with one pool, which has not begun."""
    made = World(seed)
    made.wait_s = (0.0, 0.0)
    made.add(**{"max": 4, "idle_s": 60.0, **pool})
    return made


def test_no_backlog_asks_for_nothing_and_asks_slurm_rarely() -> None:
    """An hour without work: no submission, and a question to Slurm each 300 s, not each 10."""
    quiet = world()
    quiet.start()
    quiet.run(3600)
    assert quiet.submits == 0
    assert quiet.queries <= 13


def test_a_backlog_is_probed_then_served_and_what_is_idle_goes() -> None:
    """100 tasks of 20 s: one allocation until it has joined, then all that --max allows; all are given back after."""
    busy = world()
    busy.ready = 100
    busy.start()
    most = 0
    first_joined = False
    while busy.ready or any(job.running for job in busy.jobs.values()):
        busy.run(1)
        joined = any(job.joined(busy.now) for job in busy.jobs.values())
        first_joined = first_joined or joined
        assert first_joined or len(busy.alive("p")) <= 1
        most = max(most, len(busy.alive("p")))
        assert busy.now < 1500
    assert most == 4
    busy.run(200)
    assert busy.alive("p") == [] and busy.notes == {} and busy.done == 100
    assert sum("is given back: without work" in line for line in busy.log) == busy.submits


def test_long_tasks_show_how_long_they_are_while_they_run() -> None:
    """Tasks of 400 s, none of which has ended: the first allocation runs, and others follow within two minutes."""
    slow = world()
    slow.task_s, slow.ready = 400.0, 8
    slow.start()
    slow.run(120)
    assert slow.done == 0
    assert len(slow.alive("p")) > 1


def test_little_work_gets_no_second_allocation() -> None:
    """6 tasks of 20 s on 2 ranks: another allocation would find nothing when it starts."""
    small = world()
    small.ready = 6
    small.start()
    small.run(300)
    assert small.submits == 1 and small.done == 6


def test_min_is_kept_without_work() -> None:
    """--min 2: two allocations are there all the time, also after a walltime, and none is given back."""
    kept = world(min=2, idle_s=30.0)
    kept.start()
    kept.run(100)
    for _ in range(40):
        kept.run(30)
        assert len(kept.alive("p")) <= 4
    assert len(kept.alive("p")) == 2
    assert not any("given back" in line for line in kept.log)


def test_refusals_back_off_and_a_success_ends_that() -> None:
    """A bad account for two hours: waits of 30, 60, 120 ... 3600 s; put right, work is done after the next try."""
    bad = world()
    bad.refuses, bad.ready = True, 10
    bad.start()
    bad.run(7200)
    times = [float(line.split()[0]) for line in bad.log if "tried again" in line]
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    assert len(times) == 8
    for number, gap in enumerate(gaps):
        assert 30 * 2**number <= gap <= 30 * 2**number + 25
    assert "Invalid account" in " ".join(bad.machine.told("p", bad.now)["why"])
    bad.refuses = False
    bad.run(3700)
    assert bad.done == 10
    assert bad.machine.pools["p"].failures == 0


def test_starts_that_come_to_nothing_back_off() -> None:
    """Allocations whose ranks never join, ended by Slurm at once: they count as failures, one at a time."""
    broken = world()
    broken.ready = 100
    broken.start()
    for _ in range(1800):
        broken.run(1)
        assert len(broken.alive("p")) <= 1
        for job in broken.alive("p"):
            job.join_s = None
            if job.state == "runs":
                broken._end(job)
    assert 5 <= broken.submits <= 7  # at 0, 30, 90, 210, 450, 930 s, and what it takes to see them
    assert broken.machine.pools["p"].failures >= 5


def test_ranks_that_do_not_join_are_a_failure_too() -> None:
    """An allocation runs and no rank of it joins within five minutes: it is ended, and the pool backs off."""
    stuck = world()
    stuck.ready = 4
    stuck.start()
    stuck.run(15)
    (job,) = stuck.alive("p")
    job.join_s = None
    stuck.run(330)
    assert not job.alive
    assert any("have not joined within 300 s" in line for line in stuck.log)
    assert stuck.machine.pools["p"].failures == 1


def test_a_changed_pool_is_tried_at_once() -> None:
    """Somebody corrects what was refused: the next round asks again, whatever the back-off was."""
    bad = world()
    bad.refuses, bad.ready = True, 10
    bad.start()
    bad.run(1000)
    bad.refuses = False
    bad.pools["p"] = replace(bad.pools["p"], request=replace(bad.pools["p"].request, account="right"))
    bad.run(15)
    assert bad.submits == 1


def test_an_answer_that_never_came_is_looked_up() -> None:
    """sbatch is not answered and the job is there: it is adopted, and nothing is submitted twice."""
    unsure = world(max=1)
    unsure.ready = 50
    unsure.start()
    unsure._do_Submit = lambda action: [unsure._new_job(action.pool)] and [  # type: ignore[method-assign]
        _unsure(action)
    ]
    unsure.run(200)
    assert unsure.submits == 1
    assert any("adopted" in line for line in unsure.log)
    assert unsure.done > 0


def _unsure(action: object) -> object:
    from pyfi_hpc.model.elastic import SubmitEnded

    return SubmitEnded(action.pool.name, action.pool.system, "", "no answer in 30 s", unsure=True)  # type: ignore[attr-defined]


def test_orphans_are_adopted_or_ended() -> None:
    """Jobs that nobody noted: of the pool (adopted), of one that is gone (ended), of others (left alone)."""
    found = world(max=1)
    found.ready = 1000
    mine = found.stranger(mark_of(INSTANCE, "p"))
    over = found.stranger(mark_of(INSTANCE, "p"))
    gone = found.stranger(mark_of(INSTANCE, "gone"))
    others = [found.stranger(""), found.stranger(mark_of("other", "p"))]
    found.start()
    found.run(120)
    assert mine.alive and mine.running
    assert not over.alive and not gone.alive
    assert all(job.alive for job in others)
    assert found.submits == 0
    assert set(found.notes) == {mine.key}


def test_a_killed_process_finds_its_jobs_again() -> None:
    """kill -9 and a start, ten times: the jobs are the same, nothing is submitted anew, no start counts as failed."""
    killed = world()
    killed.ready = 2000
    killed.start()
    killed.run(200)
    before = {job.key for job in killed.alive("p")}
    assert len(before) == 4
    for _ in range(10):
        killed.run(7)
        killed.start()
    killed.run(20)
    assert {job.key for job in killed.alive("p")} == before
    assert killed.machine.pools["p"].failures == 0


def test_back_off_outlives_the_process() -> None:
    """Refused five times, then killed: the next process waits as long as the last one would have."""
    bad = world()
    bad.refuses, bad.ready = True, 10
    bad.start()
    bad.run(1000)
    tried = sum("tried again" in line for line in bad.log)
    bad.kill()
    bad.run(200)
    assert sum("tried again" in line for line in bad.log) == tried


def test_a_removed_pool_gives_all_back_and_the_process_ends() -> None:
    """`alloc rm` while tasks run: they end where they run, nothing new begins there, then nothing is left to see to."""
    removed = world()
    removed.ready, removed.task_s = 500, 100.0
    removed.start()
    removed.run(250)
    assert any(job.running for job in removed.alive("p"))
    done = removed.done
    running = sum(len(job.running) for job in removed.alive("p"))
    removed.pools.clear()
    removed.run(200)
    assert removed.alive("p") == [] and removed.machine.stopped
    assert removed.done >= done + running


def test_a_paused_pool_asks_for_nothing() -> None:
    paused = world(paused=True)
    paused.ready = 10
    paused.start()
    paused.run(100)
    assert paused.submits == 0
    paused.pools["p"] = replace(paused.pools["p"], paused=False)
    paused.run(30)
    assert paused.submits == 1


def test_while_the_broker_is_away_nothing_is_decided() -> None:
    """No answer about the backlog: nothing is asked for, and what is there is not taken for idle."""
    away = world()
    away.ready = 4
    away.start()
    away.run(60)
    away.away = True
    away.run(600 - 60 - 70)
    assert len(away.alive("p")) == 1
    assert "has not answered" in " ".join(away.machine.told("p", away.now)["why"])


def test_two_pools_feed_one_queue() -> None:
    """The first waits in a full partition for ever: the second one's allocations do the work."""
    two = world()
    two.add("q", max=2)
    two.ready = 50
    two.wait_s = (1e6, 1e6)
    two.start()
    two.run(5)
    two.wait_s = (0.0, 0.0)
    two.run(900)
    assert two.done == 50
    assert [job.state for job in two.alive("p")] in ([], ["waits"])


def test_what_waits_and_is_not_needed_any_more_is_cancelled() -> None:
    """The work is done by others while an allocation waits: it is taken out of the queue after --idle."""
    waits = world()
    waits.ready = 50
    waits.wait_s = (1e6, 1e6)
    waits.start()
    waits.run(30)
    assert len(waits.alive("p")) == 1
    waits.ready = 0
    waits.run(100)
    assert waits.alive("p") == []


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_the_rules_hold(seed: int) -> None:
    """Slow and failing commands, kills, refusals, silence, lost jobs, changed pools, for an hour; then all is in order.

    ``World`` checks while it runs: never more than --max, one question to Slurm each interval, no submission in a pause
    or while nobody knows of the last one, nothing given back or ended while tasks run or before it was idle for long.
    """
    rng = random.Random(seed)
    wild = World(seed, faults=rng.choice([0.3, 1.0]))
    wild.task_s = rng.choice([0.5, 20.0, 90.0])
    wild.add("p", max=rng.randint(1, 5), min=rng.choice([0, 0, 1]), idle_s=rng.choice([20.0, 90.0]))
    wild.add("q", max=rng.randint(1, 3), batch=rng.choice(["slurm", "pbs"]), ranks=rng.randint(1, 8))
    foreign = wild.stranger("pyfi:other:p")
    wild.start()
    for _ in range(60):
        wild.run(60)
        wild.ready += rng.choice([0, 0, 0, 5, 100])
        wild.refuses, wild.deaf, wild.away = (rng.random() < 0.1 for _ in range(3))
        event = rng.random()
        if event < 0.15:
            wild.kill()
        elif event < 0.25:
            name = rng.choice(sorted(wild.pools))
            changed = {"max": rng.randint(1, 5), "min": 0, "paused": rng.random() < 0.3}
            wild.pools[name] = replace(wild.pools[name], **changed)
        elif event < 0.3 and len(wild.pools) > 1:
            del wild.pools["q"]
        elif event < 0.4:
            wild.add("q", max=rng.randint(1, 3), ranks=2)
        elif event < 0.5 and (alive := [j for j in wild.jobs.values() if j.alive and j is not foreign]):
            wild._end(rng.choice(alive))  # a node was lost, or somebody typed scancel
        if wild.machine.stopped:
            wild.start()
    wild.refuses = wild.deaf = wild.away = False
    wild.faults = 0.0
    for name, pool in wild.pools.items():
        wild.pools[name] = replace(pool, paused=False, resumed=wild.now)
    wild.run(100)
    for job in wild.jobs.values():
        if job.alive and job.join_s is None:
            job.join_s = 5.0
    wild.ready = min(wild.ready, 50)
    wild.run(2000 + wild.ready * wild.task_s)
    story = "\n".join(wild.log[-40:])
    assert wild.ready == 0, story
    wild.run(1000)
    for name, pool in wild.pools.items():
        if len(wild.alive(name)) < pool.min:  # one has just met its walltime
            wild.run(60)
        assert len(wild.alive(name)) == pool.min, story
    marked = {job.key for name in ("p", "q") for job in wild.alive(name)}
    assert set(wild.notes) == marked, story


# --- demand ---------------------------------------------------------------------------------------------

POOL = Pool(name="p", request=AllocationRequest(nodes=2, ntasks_per_node=4, time="10"), max=4, worth_s=30.0)


def backlog(*work: Work) -> Backlog:
    return Backlog("", list(work), [])


@pytest.mark.parametrize(
    ("work", "supplies", "wait_s", "wanted"),
    [
        # nothing is there: any work at all is worth one
        (Work("f", 1, 1, 0, 0.1), [], 0.0, True),
        (Work("f", 1, 1, 0, None), [], 0.0, True),
        # 8 ranks are there, and 16 would have 100 tasks * 4 s / 16 = 25 s: not worth it; with 10 s each it is
        (Work("f", 100, 100, 0, 4.0), [Supply(8)], 0.0, False),
        (Work("f", 100, 100, 0, 10.0), [Supply(8)], 0.0, True),
        # not if it starts in 100 s: 8 ranks will have done 800 of the 1000 rank-seconds
        (Work("f", 100, 100, 0, 10.0), [Supply(8)], 100.0, False),
        # unless their walltime ends before
        (Work("f", 100, 100, 0, 10.0), [Supply(8, 0.0, 20.0)], 100.0, True),
        # a limit lets 4 run at once: more ranks do not help, whatever the work
        (Work("f", 1000, 4, 0, 60.0), [Supply(8)], 0.0, False),
        # unknown durations: one allocation probes
        (Work("f", 1000, 1000, 0, None), [Supply(8)], 0.0, False),
        # longer than the walltime (10 min, 1 of them to drain) is nothing for this pool
        (Work("f", 10, 10, 0, 541.0), [], 0.0, False),
        (Work("f", 10, 10, 0, 539.0), [], 0.0, True),
        # tasks of 4 cores each: 100 of 4 s are 1600 rank-seconds, 100 s for each of 16 ranks
        (Work("f", 100, 100, 0, 4.0, cores=4), [Supply(8)], 0.0, True),
        # a rank on more cores than a node has, more ranks than an allocation has, a GPU where none is asked for
        (Work("f", 10, 10, 0, 60.0, cores=5, terms="a"), [], 0.0, False),
        (Work("f", 10, 10, 0, 60.0, ranks=9, terms="a"), [], 0.0, False),
        (Work("f", 10, 10, 0, 60.0, gpu_thousandths=1000, terms="a"), [], 0.0, False),
        # a gang that fits, and one that takes both nodes whole
        (Work("f", 1, 1, 0, 60.0, ranks=8, terms="a"), [], 0.0, True),
        (Work("f", 1, 1, 0, 60.0, ranks=2, exclusive=True, terms="a"), [], 0.0, True),
        # all is with nodes already
        (Work("f", 0, 0, 8, 100.0), [Supply(8)], 0.0, False),
    ],
)
def test_worth(work: Work, supplies: list[Supply], wait_s: float, wanted: bool) -> None:
    """The rule for one more allocation, case by case."""
    demand = demand_of(backlog(work), POOL, {})
    assert worth(POOL, demand, supplies, wait_s)[0] is wanted, worth(POOL, demand, supplies, wait_s)[1]


@pytest.mark.parametrize(
    ("options", "gpus"),
    [
        ({}, 0),
        ({"gpus_per_node": 3}, 3),
        ({"extra": ("--mem=0", "--gres=gpu")}, 1),
        ({"extra": ("--gres=gpu:2",)}, 2),
        ({"extra": ("--gres=shard:8,gpu:a100:2,gpu:v100:1",)}, 3),
        ({"extra": ("--gres=tape:4",)}, 0),
        ({"extra": ("--gpus-per-node=a100:4",)}, 4),
        ({"extra": ("--gpus-per-task=2",)}, 8),
        ({"extra": ("--constraint=gpu80",)}, UNTOLD),
        ({"constraint": "mem=8gb:ngpus=1"}, UNTOLD),
    ],
)
def test_gpus_that_are_asked_for(options: dict[str, Any], gpus: int) -> None:
    """How many each node has, as far as sbatch's options tell."""
    assert shape_of(replace(POOL.request, **options)) == Shape(4, 8, gpus)


@pytest.mark.parametrize(
    ("work", "fits"),
    [
        (Work("f", 1, 1, 0, 60.0, gpu_thousandths=2000, terms="a"), True),
        (Work("f", 1, 1, 0, 60.0, gpu_thousandths=3000, terms="a"), False),
        (Work("f", 1, 1, 0, 60.0, ranks=4, gpu_thousandths=1000, terms="a"), True),
        (Work("f", 1, 1, 0, 60.0, ranks=5, gpu_thousandths=1000, terms="a"), False),
    ],
)
def test_a_pool_with_too_few_gpus_is_not_asked(work: Work, fits: bool) -> None:
    """Two nodes of two GPUs each."""
    pool = replace(POOL, request=replace(POOL.request, gpus_per_node=2))
    assert demand_of(backlog(work), pool, {}).unfit == (0 if fits else 1)


def test_what_its_nodes_do_not_have_is_learned_once() -> None:
    """A need that no node of the pool meets: one allocation tries, is given back as idle, and none follows."""
    lacking = world()
    lacking.never, lacking.ready = True, 10
    lacking.start()
    lacking.run(1000)
    assert lacking.submits == 1 and lacking.alive("p") == []
    assert "10 more need what an allocation of this pool does not have" in " ".join(lacking.machine.told("p", 0)["why"])


def test_marks_name_the_instance() -> None:
    assert pool_of(mark_of("ab", "p"), "ab") == "p"
    assert pool_of(mark_of("ab", "p"), "abc") is None
    assert pool_of("", "ab") is None
    assert pool_of("somebody's own comment", "ab") is None
