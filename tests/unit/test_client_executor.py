"""The Executor as Python programs use one: futures, maps, edges and cancelling, against a small broker.

The broker is a thread with a real CURVE socket (client_broker.py) that runs the calls itself.
"""

import asyncio
import concurrent.futures as cf
import gc
import subprocess
import sys
import time

import msgspec
import pytest
from client_broker import Broker

from pyfi_hpc.client import mapping
from pyfi_hpc.client.executor import Executor, Future
from pyfi_hpc.client.session import Session
from pyfi_hpc.errors import (
    TaskCancelled,
    TaskFailed,
    TaskSkipped,
    TooLarge,
    UnknownSocket,
    Unserialisable,
    UsageError,
)
from pyfi_hpc.model import messages as m
from pyfi_hpc.settings import Settings


@pytest.fixture
def broker(tmp_path):
    broker = Broker(tmp_path).start()
    yield broker
    broker.stop()


@pytest.fixture
def executor(broker, tmp_path):
    session = Session(Settings(home=tmp_path, timeout_s=30.0))
    yield Executor(session=session)
    session.close()


def submits(broker):
    return [message for message in broker.heard if type(message) is m.Submit]


# --- futures ------------------------------------------------------------------------------------------


def test_a_call_gives_a_future(broker, executor):
    """result, get, id, status, done, exception; keyword arguments travel."""
    future = executor.submit("t.echo", 1, key="x")
    assert future.get(5) == [[1], {"key": "x"}]
    assert (future.id, future.job, future.status, future.done()) == ("1.0", 1, "COMPLETED", True)
    assert future.exception() is None
    assert future.result() is future.result(), "decoded once"


def test_futures_are_standard_ones(broker, executor):
    """as_completed, wait, callbacks, asyncio.wrap_future and tqdm take them as they are."""
    tqdm = pytest.importorskip("tqdm")
    futures = [executor.submit("t.square", i) for i in range(20)]
    assert sorted(f.result() for f in tqdm.tqdm(cf.as_completed(futures, 5), total=20, disable=True)) == [
        i * i for i in range(20)
    ]
    done, left = cf.wait([executor.submit("t.square", 2), executor.submit("t.never")], 5, cf.FIRST_COMPLETED)
    assert [future.result() for future in done] == [4]
    assert len(left) == 1
    called = []
    futures[0].add_done_callback(called.append)
    assert called == [futures[0]]

    async def wrapped():
        return await asyncio.gather(*(asyncio.wrap_future(executor.submit("t.add", i, 1)) for i in range(5)))

    assert asyncio.run(wrapped()) == [1, 2, 3, 4, 5]


def test_failures_are_raised_as_themselves(broker, executor):
    """A builtin exception with its type, text and remote traceback; wait sees it as a failure."""
    future = executor.submit("t.fail", "no luck")
    with pytest.raises(ValueError, match="no luck") as caught:
        future.result(30)
    assert "client_broker.py" in str(caught.value.__cause__)
    assert caught.value.task == future.id
    assert future.status == "FAILED"
    done, _ = cf.wait([executor.submit("t.never"), executor.submit("t.fail", "x")], 5, cf.FIRST_EXCEPTION)
    assert len(done) == 1


def test_other_failures_are_task_errors(broker, executor):
    """An exception class of the function's own becomes TaskFailed, which names it and has its traceback."""
    import client_broker

    class Odd(Exception):
        pass

    client_broker.FUNCTIONS["t.odd"] = lambda: (_ for _ in ()).throw(Odd("strange"))
    with pytest.raises(TaskFailed, match="Odd: strange") as caught:
        executor.submit("t.odd").result(30)
    assert "Odd" in caught.value.type_name
    assert "Traceback" in caught.value.traceback_text


def test_timeouts_are_the_standard_one(broker, executor):
    """Not there in time: TimeoutError, and the future goes on."""
    future = executor.submit("t.never")
    with pytest.raises(TimeoutError):
        future.result(0.05)
    assert not future.done()


# --- gathering ----------------------------------------------------------------------------------------


def test_calls_of_a_moment_travel_together(broker, executor):
    """A loop of calls to one socket makes few submissions; a lone call leaves at once."""
    started = time.monotonic()
    executor.submit("t.square", 1).result(30)
    assert time.monotonic() - started < 0.5
    futures = [executor.submit("t.square", i) for i in range(2000)]
    cf.wait(futures, 30)
    assert len(submits(broker)) < 200
    assert len({future.id for future in futures}) == 2000


def test_options_keep_calls_apart(broker, executor):
    """Calls with other options go in other submissions and carry them."""
    fast, slow = executor, executor.with_options(retries=2, time_limit="5m", priority=3, name="slow ones")
    futures = [(fast if i % 2 else slow).submit("t.square", i) for i in range(20)]
    cf.wait(futures, 5)
    kinds = {(s.retries, s.time_limit_s, s.priority, s.name) for s in submits(broker)}
    assert kinds == {(0, 0.0, 0, ""), (2, 300.0, 3, "slow ones")}


# --- futures as arguments -----------------------------------------------------------------------------


def test_a_future_is_an_argument_at_any_depth(broker, executor):
    """Its value goes from task to task: the client sends an edge, never the value."""
    a, b = executor.submit("t.add", 1, 2), executor.submit("t.square", 4)
    nested = executor.submit("t.echo", [a, {"b": (b, a)}], 7)
    assert nested.result(30) == [[3, {"b": (16, 3)}], 7]
    edges = [edge for s in submits(broker) if s.edges for edge in msgspec.msgpack.decode(s.edges)]
    assert len(edges) == 2, "a future that is used twice is one slot"


def test_long_chains_need_no_waiting(broker, executor):
    """Chains over one socket and over several, submitted in one go before anything is accepted."""
    x = executor.submit("t.add", 0, 1)
    for _ in range(99):
        x = executor.submit("t.add", x, 1)
    y = executor.submit("t.add", x, 0)
    for _ in range(10):
        y = executor.submit("t.add", executor.submit("t.square", y), x)
    assert x.result(30) == 100
    expected = 100
    for _ in range(10):
        expected = expected * expected + 100
    assert y.result(30) == expected


def test_dependents_of_a_failure_are_skipped(broker, executor):
    """A call on a future that failed ends SKIPPED and names the cause."""
    bad = executor.submit("t.fail", "x")
    after = executor.submit("t.add", bad, 1)
    with pytest.raises(TaskSkipped, match=r"task \d+\.\d+"):
        after.result(30)
    assert after.status == "SKIPPED"


def test_dependents_of_a_refused_call_get_its_error(broker, executor):
    """A producer that was never accepted: its dependents raise the same error instead of waiting."""
    broker.refuse = [m.Refused(b"", 0, "unknown_socket", "there is no socket", "")]
    bad = executor.submit("t.nothing", 1)
    after = executor.submit("t.square", bad)
    further = executor.submit("t.add", after, 1)
    for future in (bad, after, further):
        with pytest.raises(UnknownSocket):
            future.result(30)
    with pytest.raises(UnknownSocket):
        executor.submit("t.square", bad).result(30)


def test_futures_may_be_elements_of_a_map(broker, executor):
    """A map over futures has edges too."""
    futures = [executor.submit("t.square", i) for i in range(10)]
    assert list(executor.map("t.add", futures, range(10))) == [i * i + i for i in range(10)]


# --- map ----------------------------------------------------------------------------------------------


def test_map_streams_in_order(broker, executor, monkeypatch):
    """Results in order, one job, first batches small; shortest iterable decides."""
    monkeypatch.setattr(mapping, "BATCH_WAIT_S", 30.0)
    results = executor.map("t.add", range(5000), iter(range(10**9)))
    assert results.id == 1
    assert list(results) == [2 * i for i in range(5000)]
    counts = [s.count for s in submits(broker)]
    assert counts[0] == 32
    assert sum(counts) == 5000
    assert len(broker.jobs) == 1
    assert [s.last for s in submits(broker)] == [False] * (len(counts) - 1) + [True]


def test_map_cuts_as_told(broker, executor):
    """chunksize is the number of tasks in a batch; big arguments make smaller ones."""
    assert list(executor.map("t.square", range(10), chunksize=4)) == [i * i for i in range(10)]
    assert [s.count for s in submits(broker)] == [4, 4, 2]
    broker.heard.clear()
    assert list(executor.map("t.size", [b"x" * 300_000] * 8)) == [300_000] * 8
    assert max(s.count for s in submits(broker)) <= 4
    with pytest.raises(UsageError):
        executor.map("t.square", range(3), chunksize=0)


def test_map_of_nothing_is_nothing(broker, executor):
    """No elements: no job and no results."""
    assert list(executor.map("t.square", [])) == []
    assert submits(broker) == []


def test_map_reads_ahead_within_bounds(broker, executor, monkeypatch):
    """An endless generator is read only so far ahead of the reader."""
    monkeypatch.setattr(mapping, "AHEAD_TASKS_MAX", 500)
    monkeypatch.setattr(mapping, "BATCH_TASKS_MAX", 100)
    read = 0

    def numbers():
        nonlocal read
        while True:
            yield read
            read += 1

    results = executor.map("t.square", numbers())
    assert read < 700
    assert [next(results) for _ in range(3000)] == [i * i for i in range(3000)]
    assert read < 4500
    results.close()


def test_a_loop_that_is_left_cancels_the_rest(broker, executor, monkeypatch):
    """As with every Executor; the job is closed by a last batch."""
    monkeypatch.setattr(mapping, "AHEAD_TASKS_MAX", 2000)
    broker.hold = True
    results = executor.map("t.square", iter(range(10**9)))
    broker.hold = False
    for _ in results:
        break
    del results
    gc.collect()
    _until(lambda: submits(broker)[-1].last and all(broker.jobs[1].states))


def test_map_times_out(broker, executor):
    """Seconds from the call of map; the rest is cancelled."""
    with pytest.raises(TimeoutError, match="result 0"):
        next(executor.map("t.never", range(3), timeout=0.1))
    _until(lambda: all(broker.jobs[1].states))


def test_a_failing_element_raises_in_its_place(broker, executor):
    """The elements before it came; the iterator can go on behind it."""
    results = executor.map("t.fail", ["a", "b"])
    with pytest.raises(ValueError, match="a"):
        next(results)
    with pytest.raises(ValueError, match="b"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_an_iterable_that_raises_ends_the_map(broker, executor):
    """The error of the caller's own generator is the caller's; what was submitted is cancelled."""

    def numbers():
        yield from range(100)
        raise KeyError("mine")

    broker.hold = True
    with pytest.raises(KeyError, match="mine"):
        executor.map("t.square", numbers())
    _until(lambda: broker.jobs and broker.jobs[1].total == 100 and all(broker.jobs[1].states))


def test_map_survives_a_restart(broker, executor):
    """The broker moves in the middle: every result once, in order."""
    broker.page_ranges = 100
    results = executor.map("t.square", range(20_000))
    got = [next(results) for _ in range(1000)]
    broker.restart()
    got += results
    assert got == [i * i for i in range(20_000)]
    assert len(broker.jobs) == 1


def test_a_slow_reader_holds_the_window(broker, executor, monkeypatch):
    """Results that nobody takes fill the window, not the memory; all come in the end."""
    monkeypatch.setattr("pyfi_hpc.client.watching.RETAINED_BYTES_MAX", 100_000)
    monkeypatch.setattr("pyfi_hpc.client.session.RETAINED_BYTES_MAX", 100_000)
    monkeypatch.setattr("pyfi_hpc.client.watching.CONSUMED_STEP_BYTES", 1000)
    broker.window, broker.range_tasks = 100_000, 5
    results = executor.map("t.blob", [10_000] * 200)
    time.sleep(0.3)
    assert executor.session._talk.watching.retained_bytes <= 350_000
    assert [len(result) for result in results] == [10_000] * 200


# --- cancelling and ending ----------------------------------------------------------------------------


def test_cancelling_is_a_round_trip(broker, executor):
    """True if the task ended CANCELLED; a finished one is not cancelled; waiters are told."""
    future = executor.submit("t.never")
    assert future.cancel()
    assert future.cancelled()
    assert future.status == "CANCELLED"
    for kind in (cf.CancelledError, TaskCancelled):
        with pytest.raises(kind):
            future.result()
    assert cf.wait([future], 1).done == {future}
    assert future.cancel(), "again is the same"
    finished = executor.submit("t.square", 2)
    assert finished.result(30) == 4
    assert not finished.cancel()


def test_shutdown_waits(broker, executor, tmp_path):
    """Leaving the with block waits for futures and maps, read or not; afterwards nothing is taken."""
    with executor:
        future = executor.submit("t.square", 3)
        executor.map("t.square", range(300))
        unread = executor.map("t.square", range(200))
    assert future.done()
    assert all(state == 3 for job in broker.jobs.values() for state in job.states)
    assert list(unread) == [i * i for i in range(200)]
    with pytest.raises(RuntimeError):
        executor.submit("t.square", 1)
    with pytest.raises(RuntimeError):
        executor.with_options(retries=1).map("t.square", [1])


def test_shutdown_may_cancel(broker, executor):
    """cancel_futures ends what has not run."""
    futures = [executor.submit("t.never") for _ in range(5)]
    executor.map("t.never", range(5))
    executor.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in futures)


# --- what cannot be sent ------------------------------------------------------------------------------


def test_unserialisable_arguments_are_named(broker, executor):
    """The path inside the argument; nothing was sent and nothing waits."""
    with pytest.raises(Unserialisable, match=r"argument 1\['a'\]\[0\]"):
        executor.submit("t.echo", 1, {"a": [object()]})
    with pytest.raises(Unserialisable, match="argument 0") as caught:
        list(executor.map("t.echo", [1, 2, object()]))
    assert "call 2 of a map" in str(caught.value)
    assert executor.submit("t.square", 2).result(30) == 4
    with pytest.raises(TooLarge, match="argument 0"):
        executor.submit("t.size", b"x" * (9 << 20))


def test_futures_of_another_session_are_refused(broker, executor, tmp_path):
    """Their jobs are not known to this connection's instance."""
    other = Session(Settings(home=tmp_path, timeout_s=2.0))
    future = Executor(session=other).submit("t.square", 1)
    assert isinstance(future, Future)
    with pytest.raises(UsageError, match="another instance"):
        executor.submit("t.square", future)
    other.close()


def test_importing_is_light():
    """``import pyfi_hpc`` and its Executor load neither numpy nor sqlalchemy, mpi4py or paramiko."""
    code = (
        "import sys, pyfi_hpc; pyfi_hpc.Executor; pyfi_hpc.pipeline; pyfi_hpc.attach; pyfi_hpc.Socket;"
        "heavy = ('numpy', 'sqlalchemy', 'mpi4py', 'paramiko', 'git', 'psycopg2');"
        "print([name for name in heavy if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def _until(true, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
