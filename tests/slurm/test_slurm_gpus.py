"""GPUs of real allocations: given by Slurm's GRES, over null devices; and cores. Who sees which, and when."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from slurm_site import Site, wait

from pyfi_hpc import Executor
from pyfi_hpc.errors import Unsatisfiable

pytestmark = pytest.mark.slurm

_CODE = '''
import os, socket, time

def look(seconds=0.0):
    """Where and when it ran, with which GPUs and cores; None: nobody said anything of GPUs."""
    began = time.time()
    time.sleep(seconds)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    return socket.gethostname(), began, time.time(), gpus, sorted(os.sched_getaffinity(0))

def look_together(seconds, comm):
    """The same, of each rank of a gang."""
    return comm.allgather(look(seconds))
'''


@dataclass(frozen=True)
class Seen:
    """One rank of a call."""

    node: str
    began: float
    ended: float
    visible: str | None
    cores: tuple[int, ...]
    #: of each GPU
    part: float

    @property
    def gpus(self) -> list[str]:
        return self.visible.split(",") if self.visible else []


def seen(found: list[Any], part: float = 1.0) -> Seen:
    node, began, ended, visible, cores = found
    return Seen(node, began, ended, visible, tuple(cores), part)


@pytest.fixture
def gpu_site(site: Site) -> Site:
    """An instance without an allocation, where `look.look` is deployed."""
    folder = site.cluster.shared / "look"
    if not folder.exists():
        folder.mkdir()
        (folder / "look.py").write_text(_CODE)
        subprocess.run(["git", "init", "-q", str(folder)], check=True, timeout=20)
    site.deploy(folder)
    return site


def has(site: Site) -> dict[str, list[str]]:
    """The GPUs of each node that has joined, by its name and its allocation's."""
    return {node["name"]: list(node["has"].get("gpus", ())) for node in site.nodes()}


def most_of_one_gpu(runs: Iterable[Seen]) -> float:
    """How much of one GPU was given to calls that ran at one time, at most."""
    used: dict[tuple[str, str], list[Seen]] = defaultdict(list)
    for run in runs:
        for gpu in run.gpus:
            used[run.node, gpu].append(run)
    return max(
        sum(other.part for other in mine if other.began <= run.began < other.ended)
        for mine in used.values() for run in mine
    )  # fmt: skip


def test_each_call_sees_the_gpus_that_it_asked_for(gpu_site: Site) -> None:
    """Calls of one, two, half and no GPU, and gangs, on two of each node's four: no GPU is ever more than a whole."""
    site = gpu_site
    job = site.up(nodes=2, ntasks_per_node=4, extra=("--gres=gpu:2",))
    site.wait_ranks(8, job)
    assert list(has(site).values()) == [["0", "1"], ["0", "1"]], site.said(job)
    with Executor() as executor:

        def submit(function: str, seconds: float, count: int, **needs: Any) -> list[Any]:
            return [executor.with_options(**needs).submit(f"look.{function}", seconds) for _ in range(count)]

        none = submit("look", 0.1, 8)
        halves = submit("look", 0.4, 6, gpus=0.5)
        ones = submit("look", 0.3, 10, gpus=1)
        packed = submit("look_together", 0.3, 2, ranks=2, gpus=1)
        both = submit("look", 0.2, 4, gpus=2)
        spread = submit("look_together", 0.3, 2, ranks=2, gpus=1, spread=True)
        wide = submit("look", 0.1, 2, cores=2)

        none_seen = [seen(one.result(100)) for one in none + wide]
        halves_seen = [seen(one.result(100), 0.5) for one in halves]
        ones_seen = [seen(one.result(100)) for one in ones]
        both_seen = [seen(one.result(100)) for one in both]
        gangs = [[seen(rank) for rank in one.result(100)] for one in packed + spread]

        with pytest.raises(Unsatisfiable, match=r"3 GPUs: the nearest, \w+/\d+ has 2 GPUs"):
            executor.with_options(gpus=3).submit("look.look").result(20)

    assert {one.visible for one in none_seen} == {""}
    assert {len(one.gpus) for one in halves_seen + ones_seen} == {1}
    assert {tuple(one.gpus) for one in both_seen} == {("0", "1")}
    assert [[len(rank.gpus) for rank in gang] for gang in gangs] == [[1, 1]] * 4
    assert all(len({(rank.node, rank.visible) for rank in gang}) == 2 for gang in gangs)
    ranks = [rank for gang in gangs for rank in gang]
    everything = halves_seen + ones_seen + both_seen + ranks
    assert {gpu for one in everything for gpu in one.gpus} == {"0", "1"}
    assert {one.node for one in ones_seen} == set(site.cluster.nodes[:2])
    assert most_of_one_gpu(everything) == 1.0
    wait(lambda: all(node["given"]["gpus"] == 0 for node in site.nodes()), 10, "all GPUs are given back")


def test_allocations_on_one_node_have_their_own_gpus(gpu_site: Site) -> None:
    """Two of one GPU each share a node with one that asked for none: each keeps to what Slurm gave it."""
    site, node = gpu_site, gpu_site.cluster.nodes[1]
    where = f"--nodelist={node}"
    first, second = (site.up(extra=("--gres=gpu:pretend:1", where)) for _ in range(2))
    plain = site.up(extra=(where,))
    for job in (first, second, plain):
        site.wait_ranks(1, job)
    given = has(site)
    assert sorted([given[f"{node}/{first}"], given[f"{node}/{second}"]]) == [["0"], ["1"]], site.said(first)
    assert given[f"{node}/{plain}"] == []
    with Executor() as executor:
        ones = [executor.with_options(gpus=1).submit("look.look", 0.4) for _ in range(8)]
        runs = [seen(one.result(60)) for one in ones]
    assert {one.visible for one in runs} == {"0", "1"}
    assert most_of_one_gpu(runs) == 1.0


@pytest.mark.parametrize(
    "words",
    [
        "--gres gpu:2", "--gpus-per-node 2", "-G 4", "--sbatch=--gpus-per-task=1", "--sbatch=--gpus-per-task=pretend:1",
        "--gpus-per-node 2 --sbatch=--gpu-bind=single:1",
    ],
)  # fmt: skip
def test_however_gpus_are_asked_for(gpu_site: Site, words: str) -> None:
    """`pyfi up --slurm`: the agent of each of two nodes has both GPUs of its node, and hands them out."""
    site = gpu_site
    command = [sys.executable, "-m", "pyfi_hpc.cli.main", "up", "--slurm", "-N2", "--ntasks-per-node=2", "-t5"]
    site.cluster.run([*command, *words.split()], 60, env=site.environment)
    wait(lambda: sum(node["ranks"] for node in site.nodes()) == 4, 60, lambda: str(site.nodes()))
    assert list(has(site).values()) == [["0", "1"]] * 2
    with Executor() as executor:
        gang = executor.with_options(ranks=4, gpus=1).submit("look.look_together", 0.0)
        ranks = [seen(rank) for rank in gang.result(60)]
    assert {(rank.node, rank.visible) for rank in ranks} == {
        (node, gpu) for node in site.cluster.nodes[:2] for gpu in ("0", "1")
    }


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_each_call_sees_its_cores(gpu_site: Site) -> None:
    """Two ranks on each of two nodes: a call of two cores is bound to both, a plain one to one, and none is shared."""
    site = gpu_site
    job = site.up(nodes=2, ntasks_per_node=2)
    site.wait_ranks(4, job)
    with Executor() as executor:
        plain = [executor.submit("look.look", 0.15) for _ in range(16)]
        wide = [executor.with_options(cores=2).submit("look.look", 0.25) for _ in range(6)]
        rest = [executor.submit("look.look", 0.15) for _ in range(16)]
        wide_seen = [seen(one.result(60)) for one in wide]
        plain_seen = [seen(one.result(60)) for one in plain + rest]
    assert {len(one.cores) for one in wide_seen} == {2}
    assert {len(one.cores) for one in plain_seen} == {1}
    for one in wide_seen:
        for other in wide_seen + plain_seen:
            if other is not one and other.node == one.node and other.began < one.ended and other.ended > one.began:
                assert not set(one.cores) & set(other.cores), (one, other)
