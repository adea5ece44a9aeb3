"""A rank's machine with real runner processes: functions that end badly harm their own task and
nothing else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from rank_rig import Rig, offsets, rig

from pyfi_hpc.model.messages import Kill, RankReady, Stop
from pyfi_hpc.model.states import Cause
from pyfi_hpc.runner.payload import encode_call

__all__ = ["rig"]


def test_a_runner_that_cannot_be_started_yet(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has no process left for a moment: the start is tried again, and no task fails for it."""
    real, refused = subprocess.Popen, []

    def none_left(*words: Any, **options: Any) -> Any:
        refused.append(1)
        if len(refused) < 3:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return real(*words, **options)

    monkeypatch.setattr(subprocess, "Popen", none_left)
    assert rig.one("add", 1, 2).value == 3
    assert len(refused) == 3


def test_calls_return(rig: Rig) -> None:
    """A bundle of a thousand calls: every result, in order, with times; the rank said that it is ready."""
    before = time.time()
    tasks = rig.results(rig.run("add", *[(i, i) for i in range(1000)]))
    assert [t.value for t in tasks] == [2 * i for i in range(1000)]
    assert all(before <= t.started <= time.time() and 0 <= t.duration < 1 for t in tasks)
    assert isinstance(rig.sent[0], RankReady)


def test_functions_know_their_task_and_place(rig: Rig) -> None:
    """The token is given to user code; one thread; no MPI, no ledger's URL; a private folder that
    goes away."""
    os.environ.update(PMI_RANK="0", PYFI_LEDGER="secret")
    try:
        assert rig.one("threads").value == ("1", None, None)
    finally:
        del os.environ["PMI_RANK"], os.environ["PYFI_LEDGER"]
    assert rig.one("token").value == ("9.20", "9.20", "2", "77")
    assert Path(rig.one("where").value).parent == rig.folder


DEATHS = [("leave", (3,), "exit code 3"), ("segfault", (), "signal 11 (Segmentation fault)")]


@pytest.mark.parametrize(("function", "args", "how"), DEATHS)
def test_a_dying_runner_costs_one_task(rig: Rig, function: str, args: Any, how: str) -> None:
    """Ten calls, the fifth kills its process: nine results, one CRASH that says how, its output kept."""
    n = rig.run("add", *range(4))
    m = rig.run(function, args)
    k = rig.run("add", *range(5))
    assert [t.value for t in rig.results(n)] == [1, 2, 3, 4]
    (dead,) = rig.results(m)
    assert dead.cause is Cause.CRASH
    assert how in dead.failure.message
    assert dead.out in (b"bye\n", b"before\n")
    assert [t.value for t in rig.results(k)] == [1, 2, 3, 4, 5]
    if function == "segfault":
        assert "in segfault" in dead.failure.traceback_text


def test_a_death_inside_a_bundle_costs_one_task(rig: Rig) -> None:
    """Five tasks of one bundle, the third exits: the others run, in a fresh runner from there, not
    charged."""
    payloads = [(0, 7), (1, 7), ("os._exit", 7), (3, 7), (4, 7)]
    (rig.folder / "work" / "one.py").write_text(
        "import os\ndef f(i, c):\n    os._exit(c) if i == 'os._exit' else None\n    return i, os.getpid()\n"
    )
    tasks = rig.results(rig.run("f", *payloads, module="one"))
    assert [t.cause for t in tasks] == [Cause.NONE, Cause.NONE, Cause.CRASH, Cause.NONE, Cause.NONE]
    assert "exit code 7" in tasks[2].failure.message
    pids = [t.value[1] for t in tasks if t.cause is Cause.NONE]
    assert len(set(pids)) == 2


def test_raising_functions_do_not_end_the_runner(rig: Rig) -> None:
    """sys.exit, KeyboardInterrupt, endless recursion, exceptions that cannot be pickled: all in
    one process."""
    pid = rig.one("who").value
    for function, args, name in (
        ("quit", (3,), "SystemExit"), ("interrupt", (), "KeyboardInterrupt"), ("deep", (), "RecursionError"),
        ("odd", (), "Odd"), ("bad", (), "ValueError"), ("missing", (), "AttributeError"),
        ("add", (), "TypeError"),
    ):  # fmt: skip
        task = rig.one(function, *args)
        assert (task.cause, task.failure.type_name) == (Cause.ERROR, name)
    assert "in bad" in rig.one("bad").failure.traceback_text
    assert "child.py" not in rig.one("bad").failure.traceback_text
    assert rig.one("who").value == pid


def test_results_that_cannot_be_sent(rig: Rig) -> None:
    """A function inside the result and a result over the limit: errors that say where and how much."""
    assert "result[1]['f']: a value of type function" in rig.one("lambdas").failure.message
    assert "9,000,00" in rig.one("big", 9_000_000).failure.message
    assert len(rig.one("big", 8_000_000).value) == 8_000_000


def test_large_calls_pass_pipes_both_ways(rig: Rig) -> None:
    """Twenty calls with 2 MB each and as much back: neither side waits for the other for ever."""
    data = os.urandom(2_000_000)
    tasks = rig.results(rig.run("twice", *[(data,)] * 10, limit=20.0))
    tasks += rig.results(rig.run("twice", *[(data,)] * 10))
    assert all(t.value == [data, data] for t in tasks)


def test_inputs_are_spliced(rig: Rig) -> None:
    """References become the results that the rank was given."""
    from pyfi_hpc.runner.payload import encode_value

    class Later:
        pass

    payload = encode_call((Later(), 5), {}, lambda o: 0 if isinstance(o, Later) else None)
    n = rig.run("add", (), offsets=offsets([payload]), payload=payload, inputs=[[encode_value(37)]])
    assert rig.results(n)[0].value == 42


def test_forks_do_not_answer_twice(rig: Rig) -> None:
    """The function returns or raises in the child of a fork too: one outcome, the parent's."""
    assert rig.one("fork_and_return").value == "parent"
    assert rig.one("fork_and_raise").value == "parent"
    assert rig.one("add", 1).value == 2


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_a_task_leaves_behind_ends_with_its_runner(rig: Rig) -> None:
    """A sleeping grandchild and a daemon in its own session are killed; the death is seen at once."""
    files = [rig.folder / "one", rig.folder / "two"]
    assert rig.one("grandchild", str(files[0])).value == 1
    began = time.monotonic()
    assert rig.one("daemon_then_die", str(files[1])).cause is Cause.CRASH
    assert time.monotonic() - began < 5
    assert not any(alive(int(f.read_text())) for f in files)


@pytest.mark.parametrize("function", ["nap60", "stubborn", "hold_gil"])
def test_time_limit(rig: Rig, function: str) -> None:
    """A function that sleeps, one that ignores SIGTERM, one that holds the GIL: TIME_LIMIT; the
    next ones run."""
    rig.one("add", 1)
    call = ("nap", (60,)) if function == "nap60" else (function, ())
    n = rig.run(call[0], call[1], limit=0.3)
    after = rig.run("add", *range(3))
    (task,) = rig.results(n)
    assert task.cause is Cause.TIME_LIMIT
    assert "0.3 s" in task.failure.message
    assert task.failure.type_name == "TaskTimeout"
    assert 0.25 < task.duration < 1.5
    assert [t.value for t in rig.results(after)] == [1, 2, 3]


def test_usr1_is_not_for_functions(rig: Rig) -> None:
    """USR1 to a runner's whole process group, as `scancel --signal` sends it: the function runs on."""
    pid = rig.one("who").value
    n = rig.run("nap", (0.5,))
    time.sleep(0.1)
    os.killpg(pid, signal.SIGUSR1)
    (task,) = rig.results(n)
    assert (task.cause, task.value) == (Cause.NONE, 0.5)
    assert rig.one("who").value == pid


def test_time_limit_is_per_task_and_importing_is_free(rig: Rig) -> None:
    """Tasks of 0.15 s under a limit of 0.3 s all pass though together they take longer; so does a
    slow import."""
    (rig.folder / "work" / "slow.py").write_text("import time; time.sleep(0.5)\nnap = time.sleep\n")
    tasks = rig.results(rig.run("nap", *[0.15] * 4, module="slow", limit=0.3))
    assert [t.cause for t in tasks] == [Cause.NONE] * 4


def test_closing_descriptors(rig: Rig) -> None:
    """Closing every descriptor up to a million ends the task as a crash that says why, or leaves it well."""
    task = rig.one("close_all")
    assert task.cause is Cause.CRASH
    assert "did the function close file descriptors" in task.failure.traceback_text
    assert rig.one("close_some").cause is Cause.NONE
    assert rig.one("add", 1).value == 2


def test_a_redirected_output_is_left_alone(rig: Rig) -> None:
    """The function puts its own file in the place of standard output: it is neither read nor emptied."""
    path = rig.folder / "mine"
    assert rig.one("steal_stdout", str(path)).out == b""
    assert path.read_text() == "precious"


def test_output_is_kept_per_task(rig: Rig) -> None:
    """Print, bytes, lone surrogates, a shell's echo: each task has its own, the silent one none."""
    n = rig.run("speak", (), ())
    spoken, silent = rig.results(n)[0], rig.one("add", 1)
    assert spoken.out == "h\u00e9llo \\udc80\n".encode() + b"\xff\nsub\n"
    assert spoken.err == b"err\n"
    assert (silent.out, silent.err) == (b"", b"")
    assert rig.results(n)[1].out == spoken.out


def test_a_gigabyte_of_output_stays_small(rig: Rig) -> None:
    """1 GB on standard output: the first and the last of it are kept, the memory file never grows to it."""
    sizes: list[int] = []
    n = rig.run("flood", 1024)
    while n in [w.bundle.bundle for w in rig.machine._work]:
        rig.spin(0.02)
        sizes += [512 * os.fstat(fd).st_blocks for p in rig.runners._runners.values() for fd in p.outputs]
    (task,) = rig.results(n)
    assert task.value is None
    assert task.out.startswith(b"head\nxxx")
    assert task.out.endswith(b"xxxtail\n")
    left_out = 5 + (1 << 30) + 5 - rig.limits.output_bytes_max
    assert f"\n[... {left_out} bytes left out ...]\n".encode() in task.out
    assert b"\0" not in task.out
    assert max(sizes) < 1000 << 20


BROKEN = [
    ("nosuch", "", "ModuleNotFoundError", "No module named 'nosuch'"),
    ("m1", "x = 1 /0", "ZeroDivisionError", "division by zero"),
    ("m2", "import sys; sys.exit(4)", "SystemExit", "4"),
    ("m3", "import os; os._exit(5)", "EnvironmentFailed", "exit code 5"),
    ("m4", "import time; time.sleep(60)", "EnvironmentFailed", "longer than 5 s"),
    ("m5", "def f(:", "SyntaxError", "m5.py, line 1"),
]


@pytest.mark.parametrize(("module", "text", "name", "message"), BROKEN)
def test_modules_that_cannot_be_imported(rig: Rig, module: str, text: str, name: str, message: str) -> None:
    """Missing, raising, exiting, endless, wrong: ENVIRONMENT with the reason for each task; others
    still run."""
    if text:
        (rig.folder / "work" / f"{module}.py").write_text(text)
    tasks = rig.results(rig.run("f", 1, 2, module=module))
    assert [(t.cause, t.failure.type_name) for t in tasks] == [(Cause.ENVIRONMENT, name)] * 2
    assert message in tasks[0].failure.message
    assert rig.one("add", 1).value == 2


def test_missing_python_is_an_environment_failure(rig: Rig) -> None:
    """The environment's interpreter is not there: ENVIRONMENT, and the rank lives on."""
    task = rig.one("add", 1, python="/nowhere/bin/python")
    assert task.cause is Cause.ENVIRONMENT
    assert "/nowhere/bin/python" in task.failure.message
    assert rig.one("add", 1).value == 2


def test_many_environments_keep_few_runners(rig: Rig) -> None:
    """Seven modules in turn: at most four runners stay, and each call goes to its own module."""
    for name in "abcdefg":
        (rig.folder / "work" / f"mod_{name}.py").write_text(f"def f(): return {name!r}")
    for name in "abcdefgabcdefg":
        assert rig.one("f", module=f"mod_{name}").value == name
    rig.spin(0.7)
    assert len(rig.runners._runners) <= 5


def test_kill_running_and_waiting_tasks(rig: Rig) -> None:
    """Four naps: the running one is ended, one behind it is skipped, the others run; a waiting
    bundle goes whole."""
    rig.one("add", 1)
    n = rig.run("nap", 60, 0.01, 0.01, 0.01)
    whole = rig.run("nap", 60, 60)
    third = rig.run("nap", 60, 60)
    rig.spin(0.2)
    rig.tell(Kill(bundle=third, lo=0, count=-1, cause=Cause.CANCELLED))
    assert [t.cause for t in rig.results(third)] == [Cause.CANCELLED] * 2
    rig.tell(Kill(bundle=whole, lo=0, count=-1, cause=Cause.CANCELLED))
    rig.tell(Kill(bundle=n, lo=12, count=1, cause=Cause.CANCELLED))
    rig.tell(Kill(bundle=n, lo=10, count=1, cause=Cause.CANCELLED))
    assert [t.cause for t in rig.results(n)] == [Cause.CANCELLED, Cause.NONE, Cause.CANCELLED, Cause.NONE]
    assert [t.cause for t in rig.results(whole)] == [Cause.CANCELLED] * 2
    assert rig.one("add", 1).value == 2


def test_handing_back_leaves_the_running_one(rig: Rig) -> None:
    """RELEASED for a whole bundle: the task that runs goes on to its result, the others come back before it, unrun."""
    ran = rig.folder / "ran"
    n = rig.run("note", (str(ran), 0, 1.0), (str(ran), 1, 60), (str(ran), 2, 60))
    ahead = rig.run("nap", 60)
    rig.spin_until(ran.exists)
    rig.tell(Kill(bundle=n, lo=10, count=3, cause=Cause.RELEASED))
    rig.tell(Kill(bundle=ahead, lo=0, count=-1, cause=Cause.RELEASED))
    assert [t.cause for t in rig.results(ahead)] == [Cause.RELEASED]
    assert [t.cause for t in rig.results(n)] == [Cause.NONE, Cause.RELEASED, Cause.RELEASED]
    assert ran.read_text() == "0 "


def test_draining_finishes_what_runs(rig: Rig) -> None:
    """Stop with drain: the running task's result comes, the rest is handed back, the rank stops."""
    ran = rig.folder / "ran"
    n = rig.run("note", (str(ran), 0, 0.5), (str(ran), 1, 60))
    m = rig.run("add", 1, module="other")
    rig.spin_until(ran.exists)
    rig.tell(Stop(drain=True))
    assert [t.cause for t in rig.results(n)] == [Cause.NONE, Cause.RELEASED]
    assert [t.cause for t in rig.results(m)] == [Cause.RELEASED]
    rig.spin_until(lambda: rig.machine.stopped)


def test_stopping_at_once(rig: Rig) -> None:
    """Stop without drain: nothing is reported, the runner is gone, the rank stops."""
    rig.run("stubborn", ())
    rig.spin(0.3)
    rig.tell(Stop(drain=False))
    rig.spin(0.3)
    assert rig.machine.stopped
    assert not rig.runners._runners
