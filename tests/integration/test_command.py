"""Running a command to its end: time limit, children, bounded output. With small shell scripts."""

import os
import threading
import time
from pathlib import Path

import pytest

from pyfi_hpc.adapters import command
from pyfi_hpc.adapters.filelock import hold
from pyfi_hpc.errors import TransientError

ENV = {"PATH": os.defpath}


def _gone(pid: int) -> bool:
    """Whether the process ends: it was sent SIGKILL, which takes a moment to end somebody else's child."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_output_and_exit_status() -> None:
    """Both streams apart or merged, the input given, the status of the command itself."""
    done = command.run(["sh", "-c", "cat; echo wrong >&2; exit 3"], env=ENV, timeout_s=20, stdin=b"hello")
    assert (done.code, done.stdout, done.last_lines(1), done.fine) == (3, b"hello", "wrong", False)
    merged = command.run(["sh", "-c", "echo a; echo b >&2; echo; echo c"], env=ENV, timeout_s=20, merge=True)
    assert (merged.fine, merged.stdout, merged.last_lines(2)) == (True, b"", "b\nc")


def test_a_time_limit_ends_the_command_and_its_children(tmp_path: Path) -> None:
    """After the limit neither the command nor a child that it started in the background is there."""
    started = time.monotonic()
    script = f"sleep 60 & echo $! > {tmp_path}/child; exec sleep 60"
    done = command.run(["sh", "-c", script], env=ENV, timeout_s=0.5)
    assert done.timed_out
    assert time.monotonic() - started < 10
    assert _gone(int((tmp_path / "child").read_text()))


def test_a_child_that_keeps_the_output_open_does_not_hold_us(tmp_path: Path) -> None:
    """The command ends, a background child still has its pipe: we return at once and the child is ended."""
    started = time.monotonic()
    done = command.run(
        ["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/child; echo done"], env=ENV, timeout_s=30
    )
    assert (done.fine, done.stdout) == (True, b"done\n")
    assert time.monotonic() - started < 10
    assert _gone(int((tmp_path / "child").read_text()))


def test_output_without_end_is_bounded() -> None:
    """Endless standard error keeps its last part only; endless standard output ends the command."""
    noisy = command.run(["sh", "-c", "head -c 3000000 /dev/zero >&2; echo last >&2"], env=ENV, timeout_s=30)
    assert noisy.fine
    assert len(noisy.stderr) <= command.STDERR_BYTES_KEPT
    assert noisy.stderr.endswith(b"last\n")
    endless = command.run(["cat", "/dev/zero"], env=ENV, timeout_s=60)
    assert endless.too_long
    assert not endless.fine


def test_a_file_size_limit(tmp_path: Path) -> None:
    """A command that writes a larger file than allowed fails."""
    argv = ["head", "-c", "100000", "/dev/zero"]
    done = command.run(
        ["sh", "-c", f"{' '.join(argv)} > {tmp_path}/big"], env=ENV, timeout_s=20, file_bytes_max=51200
    )
    assert not done.fine
    assert (tmp_path / "big").stat().st_size <= 51200


def test_a_lock_lets_one_in_and_says_who_waits(tmp_path: Path) -> None:
    """A second holder waits and is told so; over its limit it gets an error that names the file."""
    told: list[str] = []
    path = tmp_path / "lock"

    def second() -> None:
        with hold(path, timeout_s=20, what="a thing", progress=told.append):
            told.append("in")

    with hold(path, timeout_s=1, what="a thing"):
        with pytest.raises(TransientError, match="a thing"), hold(path, timeout_s=0.1, what="a thing"):
            pass
        thread = threading.Thread(target=second)
        thread.start()
        deadline = time.monotonic() + 10
        while not told and time.monotonic() < deadline:
            time.sleep(0.01)
        assert told == ["waiting for another process that works on a thing"]
    thread.join(10)
    assert told[-1] == "in"
