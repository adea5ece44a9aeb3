"""What a call asks for, on a real instance of two ranks on two cores: cores, GPUs, memory, other things, labels.

GPUs are names here: who gets which is decided by us, and told by CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from instance_fixture import Instance, instance_with, until

from pyfi_hpc.errors import Unsatisfiable, UsageError

_CODE = '''
import os, time

def look(seconds=0.0):
    """When it ran, on which cores, with which GPUs and how many threads."""
    began = time.time()
    time.sleep(seconds)
    env = os.environ.get
    return began, time.time(), sorted(os.sched_getaffinity(0)), env("CUDA_VISIBLE_DEVICES"), env("OMP_NUM_THREADS")
'''
_GPUS = ("GPU-a", "GPU-b")
CORES = sorted(os.sched_getaffinity(0))[:2]
pytestmark = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")


@pytest.fixture(scope="module")
def wide(test_home: Path) -> Iterator[Instance]:
    """Two ranks, two GPUs by name, two licenses."""
    given = {"gpus": _GPUS, "resources": ("license:2", "tape:1"), "labels": ("bigmem",)}
    with instance_with(test_home, "wide", 2, "look", _CODE, **given) as made:
        yield made


def ran(wide: Instance, count: int, seconds: float, **needs: Any) -> list[Any]:
    with wide.executor() as executor:
        futures = [executor.with_options(**needs).submit("look.look", seconds) for _ in range(count)]
        return [future.result(60) for future in futures]


def most_at_once(times: list[Any]) -> int:
    """How many of these ran at one time, at most."""
    return max(sum(began <= at < ended for began, ended, *_ in times) for at, *_ in times)


def test_a_task_has_the_cores_that_it_asked_for_and_they_are_its_own(wide: Instance) -> None:
    """Plain tasks have one core each; one of two cores has both, with threads for both, and nothing beside it."""
    with wide.executor() as executor:
        plain = [executor.submit("look.look", 0.05) for _ in range(20)]
        both = [executor.with_options(cores=2).submit("look.look", 0.2) for _ in range(3)]
        rest = [executor.submit("look.look", 0.05) for _ in range(20)]
        alone, narrow = [f.result(60) for f in both], [f.result(60) for f in plain + rest]
    assert {tuple(cores) for _, _, cores, _, _ in narrow} == {(core,) for core in CORES}
    assert {threads for *_, threads in narrow} == {"1"}
    assert all(cores == CORES and threads == "2" for _, _, cores, _, threads in alone)
    for began, ended, *_ in alone:
        assert not [other for other in narrow if other[0] < ended and other[1] > began]
    assert most_at_once(alone) == 1


def test_threads_can_differ_from_cores(wide: Instance) -> None:
    """A call that asks for three threads on one core has them."""
    _, _, cores, _, threads = ran(wide, 1, 0.0, threads=3)[0]
    assert (len(cores), threads) == (1, "3")


def test_a_gpu_belongs_to_one_task(wide: Instance) -> None:
    """Six tasks of one GPU each on two ranks: each sees one, two that run at one time never the same."""
    found = ran(wide, 6, 0.15, gpus=1)
    assert {gpu for *_, gpu, _ in found} <= set(_GPUS)
    for gpu in _GPUS:
        mine = [run for run in found if run[3] == gpu]
        assert not mine or most_at_once(mine) == 1
    assert most_at_once(found) == 2


def test_two_gpus_and_none(wide: Instance) -> None:
    """A task of two GPUs sees both, one that asks for none sees none."""
    assert ran(wide, 1, 0.0, gpus=2)[0][3] == "GPU-a,GPU-b"
    assert ran(wide, 1, 0.0)[0][3] == ""


def test_halves_share_a_gpu(wide: Instance) -> None:
    """Two halves lie on one GPU, so that the other one is free for a whole."""
    with wide.executor() as executor:
        halves = [executor.with_options(gpus=0.5).submit("look.look", 1.5) for _ in range(2)]
        found = [half.result(30) for half in halves]
    assert most_at_once(found) == 2
    assert len({gpu for *_, gpu, _ in found}) == 1


def test_other_things_are_counted(wide: Instance) -> None:
    """There is one tape: tasks that want it run one by one; two licenses let two run."""
    assert most_at_once(ran(wide, 3, 0.1, resources={"tape": 1})) == 1
    assert most_at_once(ran(wide, 4, 0.15, resources={"license": 1})) == 2
    memory = wide.nodes()[0]["has"]["memory_bytes"]
    assert most_at_once(ran(wide, 3, 0.1, memory=memory * 2 // 3)) == 1


def test_labels_and_exclusive_nodes(wide: Instance) -> None:
    """A label that the node has is met; an exclusive task has the node's two ranks."""
    assert ran(wide, 1, 0.0, labels=["bigmem", "linux"])
    found = ran(wide, 3, 0.1, exclusive=True)
    assert most_at_once(found) == 1
    assert found[0][2] == CORES


def test_the_first_way_that_can_be_met_is_taken(wide: Instance) -> None:
    """Eight GPUs or two cores: the cores."""
    found = ran(wide, 2, 0.0, gpus=8, otherwise=[{"cores": 2}])
    assert [(cores, gpu) for _, _, cores, gpu, _ in found] == [(CORES, "")] * 2


@pytest.mark.parametrize(
    ("needs", "text"),
    [
        ({"cores": 3}, "3 cores: the nearest"),
        ({"gpus": 3}, "has 2 GPUs"),
        ({"labels": ["arm"]}, "has no label 'arm'"),
        ({"resources": {"license": 3}}, "has 2 license"),
        ({"resources": {"unheard": 1}}, "has 0 unheard"),
        ({"memory": "900T"}, "the nearest"),
        ({"cores": 8, "otherwise": [{"gpus": 9}]}, "nor 1 core, 9 GPUs"),
    ],
)
def test_what_can_never_be_is_refused_at_submit(wide: Instance, needs: dict[str, Any], text: str) -> None:
    """The refusal names what was wanted and the node that comes nearest."""
    with wide.executor() as executor, pytest.raises(Unsatisfiable, match=text):
        executor.with_options(**needs).submit("look.look").result(20)


@pytest.mark.parametrize("needs", [{"cores": 0}, {"gpus": 1.5}, {"memory": "much"}, {"resources": {"a b": 1}}])
def test_what_says_nothing_is_refused_before(wide: Instance, needs: dict[str, Any]) -> None:
    with wide.executor() as executor, pytest.raises(UsageError):
        executor.with_options(**needs)


def test_a_socket_says_it_for_calls_that_do_not(wide: Instance) -> None:
    """As `pyfi update socket --needs` does; what cannot be read is refused."""
    with pytest.raises(UsageError, match="nothing is known of core"):
        wide.ask("update", kind="socket", name="look.look", values={"needs": "core=2"})
    wide.ask("update", kind="socket", name="look.look", values={"needs": "cores=2"})
    try:
        assert ran(wide, 1, 0.0)[0][2] == CORES
    finally:
        wide.ask("update", kind="socket", name="look.look", values={"needs": ""})


def test_a_lost_rank_gives_back_what_it_had(wide: Instance) -> None:
    """The rank of a task with both cores and both GPUs is killed: it runs again, and all is free afterwards."""
    with wide.executor() as executor:
        future = executor.with_options(cores=2, gpus=2).submit("look.look", 1.5)
        until(lambda: wide.runners(), 20.0, "it runs")
        until(lambda: wide.nodes()[0]["given"]["gpus"] == 2, 20.0, "it is counted")
        time.sleep(0.5)
        for rank in wide.ranks():
            os.kill(rank, signal.SIGKILL)
        assert future.result(60)[3] == "GPU-a,GPU-b"
    until(lambda: wide.nodes()[0]["ranks"] == 2, 30.0, "both ranks are back")
    assert most_at_once(ran(wide, 4, 0.3, gpus=1)) == 2
    until(lambda: wide.nodes()[0]["given"]["ranks"] == 0, 10.0, "nothing is given away")
