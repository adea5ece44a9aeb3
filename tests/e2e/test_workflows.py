"""Workflows on a real instance: embedded Postgres, broker, agent, two ranks, code from its git repository.

One instance for all tests of this file, in a folder of its own; it takes about five seconds to start.
"""

from __future__ import annotations

import concurrent.futures as cf
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pyfi_hpc import settings as settings_module
from pyfi_hpc.client import deploy, session
from pyfi_hpc.client.api import (
    Executor,
    Processor,
    Queue,
    Socket,
    attach,
    functions,
    funnel,
    parallel,
    pipeline,
    segment,
)
from pyfi_hpc.client.example.api import do_something_p as do_something
from pyfi_hpc.client.example.api import do_this
from pyfi_hpc.errors import NotFound, TaskCancelled, TaskTimeout, UnknownSocket
from pyfi_hpc.hosts import instance
from pyfi_hpc.ledger import embedded

#: the daemons outlive whoever starts them: nobody waits for their process objects
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
ROOT = Path(__file__).resolve().parents[2]
SAMPLE = "pyfi.processors.sample"
square, add, total, fail, wait, echo = functions(*(f"{SAMPLE}.{name}" for name in
    ("square", "add", "total", "fail", "wait", "echo")))  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[settings_module.Settings]:
    """The instance, with examples/sample deployed, found through the environment as by any script."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PYFI_HOME", str(tmp_path_factory.mktemp("pyfi")))
    patch.setenv("PYFI_INSTANCE", "workflows")
    settings = settings_module.load()
    try:
        instance.start_ledger(settings)
        instance.start_broker(settings)
        instance.start_agent(settings, 2)
        ask = session.current().ask
        instance.wait_for_ranks(settings, lambda: ask("info", repeat=True)["broker"]["nodes"], 2, 60)
        spec = deploy.prepare(settings, ROOT / "examples/sample", allow_dirty=True)
        ask("deploy", msgspec.to_builtins(spec))
        yield settings
    finally:
        instance.stop(settings, lambda: session.current().ask("shutdown", timeout=8.0))
        session.close_all()
        embedded.remove(settings)
        patch.undo()


# --- structures ---------------------------------------------------------------------------------------


def test_a_pipeline_passes_results_on() -> None:
    """Each step gets the previous result first, then its own arguments."""
    assert pipeline([square(3), add(1), square()]).get(30) == 100


def test_results_keep_their_nesting() -> None:
    """parallel in pipeline in parallel in funnel, as in the seeds' example: one nested list, in order."""
    inner = pipeline([do_something("One"), do_something("Two"),
                      parallel([do_something("Four"), do_something("Five")]), echo()])  # fmt: skip
    whole = funnel([do_something("Eight"), parallel([inner, do_something("Six")]), do_something("Nine")])
    ds = "do_something({})".format
    pipe = ds(f"{ds('One')} | Two")
    assert whole(echo()).get(30) == [
        ds("Eight"), [[ds(f"{pipe} | Four"), ds(f"{pipe} | Five")], ds("Six")], ds("Nine"),
    ]  # fmt: skip


def test_structures_nest_five_deep() -> None:
    """Funnels in funnels, pipelines in parallels: the documented shape at depth 5."""
    layer: Any = square(2)
    expected: Any = 4
    for _ in range(5):
        layer = parallel([pipeline([funnel([layer, square(1)], echo()), echo()]), square(3)])
        expected = [[expected, 1], 9]
    assert layer.get(30) == expected


def test_empty_and_segmented() -> None:
    """parallel([]) is [] and costs nothing; ten items by 4 are lists of 4, 4 and 2."""
    assert parallel([]).get(5) == []
    assert funnel([])(total()).get(30) == 0
    assert segment(f"{SAMPLE}.square", range(10), 4).get(30) == [[0, 1, 4, 9], [16, 25, 36, 49], [64, 81]]


def test_a_wide_funnel() -> None:
    """A thousand branches into one step: its inputs are results of the same job."""
    assert funnel([square(i) for i in range(1000)], total()).get(60) == sum(i * i for i in range(1000))


def test_the_first_failure_in_order_is_raised() -> None:
    """The function's own exception; the others are attached; what depends on it never runs."""
    flow = parallel([square(1), pipeline([fail("first"), square()]), fail("second")])
    with pytest.raises(ValueError, match="first") as caught:
        flow.get(30)
    assert [str(error) for error in caught.value.others] == ["second"]  # type: ignore[attr-defined]
    assert "sample.py" in str(caught.value.__cause__)


def test_a_failure_may_cancel_its_siblings() -> None:
    """on_failure="cancel": the sleeping sibling ends at once, and the failure is what is raised."""
    started = time.monotonic()
    with pytest.raises(ValueError, match="now"):
        parallel([wait(60), fail("now")], on_failure="cancel").get(30)
    assert time.monotonic() - started < 20


# --- calls and futures --------------------------------------------------------------------------------


def test_futures_are_arguments_at_any_depth() -> None:
    """The value goes from task to task; another job may produce it, finished long ago or not yet."""
    with Executor() as executor:
        a = executor.submit(f"{SAMPLE}.square", 3)
        assert a.result(30) == 9
        b = executor.submit(f"{SAMPLE}.add", a, 1)
        c = executor.submit(f"{SAMPLE}.echo", [b, {"k": (a, b)}])
        assert c.result(30) == [10, {"k": (9, 10)}]
        x = executor.submit(f"{SAMPLE}.wait", 0.2)
        y = executor.submit(f"{SAMPLE}.add", x, x)
        assert y.result(30) == 0.4


def test_a_map_streams_in_order() -> None:
    """Twenty thousand results in order, and futures of single calls beside it."""
    with Executor() as executor:
        futures = [executor.submit(f"{SAMPLE}.square", i) for i in range(100)]
        doubled = executor.map(f"{SAMPLE}.add", range(20_000), range(20_000))
        assert list(doubled) == [2 * i for i in range(20_000)]
        assert [future.result() for future in cf.as_completed(futures, 30)].count(81) == 1


def test_a_plain_function_is_found_by_its_name() -> None:
    """An imported function of deployed code stands for its socket; its body is not run here."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "examples/sample"))
    from pyfi_processors import sample  # type: ignore[import-not-found]

    with Executor() as executor:
        assert executor.submit(sample.square, 12).result(30) == 144
    patch.undo()


def test_cancelling_ends_queued_and_running_tasks() -> None:
    """True, at once, and the rank works on; meanwhile the broker tells which ones run."""
    started = time.monotonic()
    futures = [wait.delay(60) for _ in range(6)]
    while futures[0].status != "RUNNING":
        assert time.monotonic() < started + 10, futures[0].status
        time.sleep(0.05)
    assert all(future.cancel() for future in futures)
    with pytest.raises(TaskCancelled):
        futures[0].result()
    assert square.delay(4).result(30) == 16
    assert time.monotonic() - started < 30


def test_a_time_limit_ends_a_task() -> None:
    """TaskTimeout, which is a TimeoutError."""
    with pytest.raises(TaskTimeout):
        Executor().with_options(time_limit=0.5).submit(f"{SAMPLE}.wait", 60).result(30)


def test_an_unknown_socket_names_a_near_one() -> None:
    """Refused with its class and a hint; a job that does not exist is not found."""
    with pytest.raises(UnknownSocket, match=rf"did you mean {SAMPLE}\.square"):
        functions("sample.square").delay(1).result(30)
    with pytest.raises(NotFound):
        attach(10**9)


# --- objects ------------------------------------------------------------------------------------------


def test_objects_are_got_or_made_by_name() -> None:
    """The seeds' way: processor from git, queue, sockets with names of their own; twice is the same one."""
    repository = str(ROOT / "examples/sample")
    processor = Processor(name="proc1", module="pyfi_processors.sample", gitrepo=repository)
    queue = Queue(name="pyfi.queue1")
    in_queue = {"name": queue.name}
    socket = Socket(name="proc1.socket1", processor=processor, queue=in_queue, task="do_something")
    assert socket("Hello World !") == "do_something(Hello World !)"
    assert pipeline([socket.p("a"), Socket("proc1.do_this").p("b")]).get(30) == "do_this(do_something(a) | b)"
    assert Processor(name="proc1").id == processor.id
    assert Socket(name="proc1.socket1").id == socket.id
    assert Queue(name="pyfi.queue1").id == queue.id
    assert do_this("x") == "do_this(x)"
    with pytest.raises(NotFound):
        Socket("proc1.nothing")


# --- other processes, and daemons that die ------------------------------------------------------------


def test_a_job_is_attached_from_another_process(running: settings_module.Settings) -> None:
    """The submitting process ends without waiting; another one gets value, structure and task by id."""
    code = (
        f"from pyfi_hpc.client.api import *; s, w = functions('{SAMPLE}.square', '{SAMPLE}.wait');"
        "print(s.delay(7).id, parallel([w(0.3), s(2)])(wait=False).id)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    task, job = done.stdout.split()
    assert attach(task).get(30) == 49
    assert attach(task.split(".")[0]).get(30) == 49, "a lone call's job is its value"
    assert attach(job).get(30) == [0.3, 4]
    assert attach(int(job)).name


def test_a_killed_broker_is_found_again(running: settings_module.Settings) -> None:
    """SIGKILL in the middle of a map: started again, it goes on; every result once, in order."""
    results = Executor().map(f"{SAMPLE}.square", range(50_000))
    first = [next(results) for _ in range(100)]
    future = wait.delay(1.0)
    assert future.id
    daemon = instance.find(running, "broker")
    assert daemon is not None
    os.kill(daemon.pid, signal.SIGKILL)
    while daemon.alive:
        time.sleep(0.01)
    instance.start_broker(running)
    assert first + list(results) == [i * i for i in range(50_000)]
    assert future.result(30) == 1.0
    assert square.delay(9).result(30) == 81
