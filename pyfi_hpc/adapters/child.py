"""Runner processes of a rank: starts them, reads and writes their pipes, ends them with all they left behind.

One epoll holds the pipes, the processes (pidfd: a grandchild that keeps a pipe open hides no death) and a
timer, so a poller waits for one descriptor. Nothing here decides anything: see ``core/rank.py``.

While a runner has tasks in flight its pipe is left unread for ``GATHER_S`` after each reading, so at 50,000
tasks/s the rank wakes a thousand times a second, not once per task. A result that comes after a pause is read
at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import shutil
import signal
import struct
import subprocess
from collections import deque
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from pyfi_hpc.adapters.surroundings import MemoryKills, Orphans, runner_environment
from pyfi_hpc.adapters.timer import Timer
from pyfi_hpc.model.effects import Action, KillRunner, StartRunner, WriteRunner
from pyfi_hpc.model.events import RunnerExited, RunnerSpoke
from pyfi_hpc.model.limits import Limits

CHILD = Path(__file__).parent.parent / "runner" / "child.py"
#: results that come closer together than this are read together, seconds
GATHER_S = 0.001
#: bytes read from one runner at once; one frame may be larger
READ_MAX = 1 << 20
_PIPE_BYTES = 256 << 10
#: for one read; malloc asks the kernel for anything larger, and gives it back, each time
_READ_BYTES = 64 << 10
#: output in a memory file while a task runs; beyond it only its beginning is kept
_FLOOD_BYTES = 4 << 20
#: how often the output of a running task is looked at, seconds
_LOOK_MIN_S, _LOOK_MAX_S = 0.05, 0.2
#: the system has no process, memory or descriptor left: that passes
_PASSES = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
#: a runner that cannot be started for such a reason is tried again so often and given up after so long, seconds
_START_AGAIN_S, _START_LIMIT_S = 0.5, 30.0
_U32 = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Runners:
    """The port and the doer of a rank's runners.

    Parameters
    ----------
    limits
        Sizes of results and of output.
    scratch : Path
        Private folder on this node; each runner gets a folder in it to work in, removed when it ends.
    adopt : bool
        This process exists for its runners only: it adopts what they leave behind and ends it.
    """

    def __init__(self, limits: Limits, scratch: Path, adopt: bool = False) -> None:
        self._limits = limits
        self._scratch = scratch
        self._orphans = Orphans() if adopt else None
        _remove_stale(scratch)
        self._runners: dict[int, _Process] = {}
        self._epoll = select.epoll()
        #: readable when ``receive`` has something to do
        self.waitable: Any = self._epoll.fileno()
        self._timer = Timer()
        self._epoll.register(self._timer.fd, select.EPOLLIN)
        #: descriptor -> what it belongs to
        self._owners: dict[int, _Process] = {}
        self._failed: list[Any] = []
        #: runners that could not be started yet: number -> (what to start, until when to try, when again)
        self._late: dict[int, tuple[StartRunner, float, float]] = {}
        self._memory = MemoryKills()
        self._timer_at = 0.0

    def do(self, action: Action) -> None:
        """Carry out StartRunner, WriteRunner or KillRunner; what comes of it returns from ``receive``."""
        if isinstance(action, StartRunner):
            self._start(action, monotonic() + _START_LIMIT_S)
            return
        assert isinstance(action, WriteRunner | KillRunner)
        if action.runner in self._late:
            start, _, _ = self._late.pop(action.runner)
            self._could_not(start, "it was ended before it could be started")
            return
        process = self._runners.get(action.runner)
        if process is None:  # it has just ended; RunnerExited tells
            return
        if isinstance(action, WriteRunner):
            process.write(action.frame)
            self._watch(process)
        else:
            process.kill(action.hard)

    def receive(self) -> list[RunnerSpoke | RunnerExited]:
        """What the runners wrote and how they ended; bounded, never blocks."""
        events, self._failed = self._failed, []
        now = monotonic()
        self._turn(now, events)
        exited: list[_Process] = []
        for fd, _ in self._epoll.poll(0):
            process = self._owners.get(fd)
            if process is None:
                self._timer.clear()
                self._timer_at = 0.0
            elif fd == process.pidfd:
                exited.append(process)
            elif fd == process.write_fd:
                process.flush()
                self._watch(process)
            else:
                self._read(process, now, events)
        for process in exited:
            self._end(process, events)
        self._set_timer()
        return events

    def close(self) -> None:
        """Kill what is left; used when the rank ends."""
        for process in list(self._runners.values()):
            process.kill(hard=True)
            self._end(process, [])
        self._timer.close()
        self._epoll.close()

    def _start(self, action: StartRunner, give_up: float) -> None:
        try:
            process = _Process(action, self._limits, self._scratch)
        except OSError as error:
            again = monotonic() + _START_AGAIN_S
            if error.errno in _PASSES and again < give_up:
                self._late[action.runner] = (action, give_up, again)
                self._wake(again)
            else:
                self._could_not(action, f"it could not be started: {error}")
            return
        self._runners[action.runner] = process
        for fd in (process.read_fd, process.write_fd, process.pidfd):
            self._owners[fd] = process
        self._epoll.register(process.read_fd, select.EPOLLIN)
        self._epoll.register(process.pidfd, select.EPOLLIN)

    def _could_not(self, action: StartRunner, how: str) -> None:
        self._failed.append(RunnerExited(runner=action.runner, status=127, how=how))
        self._wake(0.0)

    def _read(self, process: _Process, now: float, events: list[Any]) -> None:
        frames = process.read()
        if frames:
            events.append(RunnerSpoke(runner=process.number, frames=frames))
        pause = process.in_flight > 0 and bool(frames) and not process.hung_up
        process.read_at = now + GATHER_S
        if process.hung_up:
            self._epoll.unregister(process.read_fd)
        elif pause != process.gathering:
            self._epoll.modify(process.read_fd, 0 if pause else select.EPOLLIN)
        process.gathering = pause

    def _turn(self, now: float, events: list[Any]) -> None:
        """Read where the pause is over; look at the output of what runs for long."""
        for action, give_up, again in list(self._late.values()) if self._late else ():
            if again <= now + 1e-5:
                del self._late[action.runner]
                self._start(action, give_up)
        for process in self._runners.values():
            if process.gathering and process.read_at <= now + 1e-5:
                self._read(process, now, events)
            if process.in_flight > 0 and process.look_at <= now:
                process.look(now, self._limits.output_bytes_max)
        if self._orphans is not None:
            self._orphans.reap(now, {process.pid for process in self._runners.values()})

    def _set_timer(self) -> None:
        soonest = min((again for _, _, again in self._late.values()), default=0.0) if self._late else 0.0
        for process in self._runners.values():
            for is_on, at in ((process.gathering, process.read_at), (process.in_flight > 0, process.look_at)):
                if is_on and (not soonest or at < soonest):
                    soonest = at
        if soonest:
            self._wake(soonest)

    def _wake(self, at: float) -> None:
        if not self._timer_at or at < self._timer_at:
            self._timer.set(at)
            self._timer_at = at or -1.0

    def _watch(self, process: _Process) -> None:
        """Ask for writability only while something waits to be written."""
        if process.is_writing == process.watched:
            return
        if process.is_writing:
            self._epoll.register(process.write_fd, select.EPOLLOUT)
        else:
            self._epoll.unregister(process.write_fd)
        process.watched = process.is_writing

    def _end(self, process: _Process, events: list[Any]) -> None:
        process.end_group()  # before it is reaped: until then nobody else can have its number
        while frames := process.read():
            events.append(RunnerSpoke(runner=process.number, frames=frames))
        del self._runners[process.number]
        for fd in (process.read_fd, process.write_fd, process.pidfd):
            del self._owners[fd]
        events.append(process.reap(self._limits.output_bytes_max, self._memory))
        if self._orphans is not None:
            self._orphans.end(process.mark, {other.pid for other in self._runners.values()})


class _Process:
    """One runner: its process group, its pipes and the memory files behind its output."""

    def __init__(self, action: StartRunner, limits: Limits, scratch: Path) -> None:
        self.number = action.runner
        self.folder = scratch / f"runner-{os.getpid()}-{action.runner}"
        self.folder.mkdir(mode=0o700)
        self.mark = f"{os.getpid()}-{action.runner}"
        child_read, self.write_fd = _pipe()
        self.read_fd, child_write = _pipe()
        self.outputs = (_memory_file("stdout"), _memory_file("stderr"))
        arguments = [
            action.python, "-I", "-X", "faulthandler", str(CHILD), str(child_read), str(child_write),
            str(os.getpid()),
            action.workdir, action.module, str(limits.output_bytes_max), str(limits.payload_bytes_max),
        ]  # fmt: skip
        try:
            # start_new_session: one signal reaches everything that the function started
            self._popen = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=self.outputs[0], stderr=self.outputs[1],
                pass_fds=(child_read, child_write), cwd=self.folder,
                env=runner_environment(action.python, self.mark),
                start_new_session=True,
            )  # fmt: skip
        except OSError:
            for fd in (self.write_fd, self.read_fd, *self.outputs):
                os.close(fd)
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        finally:
            os.close(child_read)
            os.close(child_write)
        self.pid = self._popen.pid
        self.pidfd = os.pidfd_open(self.pid)
        os.set_blocking(self.write_fd, False)
        os.set_blocking(self.read_fd, False)
        self.in_flight = 0
        self.gathering = False
        self.read_at = 0.0
        self.look_at = 0.0
        self._look_s = _LOOK_MIN_S
        self.hung_up = False
        self.watched = False
        self._killed = False
        self._scribbled = False
        self._frame_bytes_max = 2 * (limits.payload_bytes_max + limits.output_bytes_max) + (1 << 20)
        self._inbox = bytearray()
        self._outbox: deque[memoryview] = deque()
        self._dropped = [0, 0]
        self._dropped_of = 0

    @property
    def is_writing(self) -> bool:
        return bool(self._outbox)

    def write(self, frame: list[Any]) -> None:
        data = _encode(frame)
        if frame[0] == "run":
            self.in_flight += len(frame[7]) // 4 - 1
            self._look_s = _LOOK_MIN_S
            self.look_at = monotonic() + _LOOK_MIN_S
        self._outbox.append(memoryview(_U32.pack(len(data)) + data))
        self.flush()

    def flush(self) -> None:
        """Write what the pipe takes now."""
        while self._outbox:
            head = self._outbox[0]
            try:
                written = os.write(self.write_fd, head)
            except BlockingIOError:
                return
            except OSError:  # it is gone: RunnerExited follows
                self._outbox.clear()
                return
            if written == len(head):
                self._outbox.popleft()
            else:
                self._outbox[0] = head[written:]

    def read(self) -> list[list[Any]]:
        """Complete frames; at most ``READ_MAX`` bytes are taken from the pipe unless one frame is longer."""
        frames: list[list[Any]] = []
        taken = 0
        while not self.hung_up and (taken < READ_MAX or not frames):
            try:
                data = os.read(self.read_fd, _READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                self.hung_up = True
            self._inbox += data
            taken += len(data)
            self._cut(frames)
            if len(data) < _READ_BYTES:
                break  # the pipe is empty: spare the read that says so
        return frames

    def _cut(self, frames: list[list[Any]]) -> None:
        at = 0
        with memoryview(self._inbox) as view:
            while len(view) - at >= 4:
                size = _U32.unpack_from(view, at)[0]
                end = at + 4 + size
                if len(view) < end and size <= self._frame_bytes_max:
                    break
                frame = _decode_frame(view[at + 4 : end])
                if frame is None or size > self._frame_bytes_max:
                    self._distrust()
                    return
                if frame[0] == "done" or frame[0] == "skipped":
                    self.in_flight -= 1
                frames.append(frame)
                at = end
        del self._inbox[:at]

    def _distrust(self) -> None:
        """The function wrote into the runner's pipe: nothing that comes from it can be believed any more."""
        self.hung_up = self._scribbled = True
        self._signal(signal.SIGKILL)

    def look(self, now: float, output_max: int) -> None:
        """Keep the memory files small while a task floods them; its beginning is kept."""
        grown = False
        if self._dropped_of != self.in_flight:  # another task runs now
            self._dropped, self._dropped_of = [0, 0], self.in_flight
        for i, fd in enumerate(self.outputs):
            size = os.fstat(fd).st_size
            if size > _FLOOD_BYTES:
                grown = True
                keep = output_max // 2 - 100
                self._dropped[i] += size - keep
                os.ftruncate(fd, keep)
                os.write(fd, f"\n[... {self._dropped[i]} bytes left out while it ran ...]\n".encode())
        self._look_s = _LOOK_MIN_S if grown else min(2 * self._look_s, _LOOK_MAX_S)
        self.look_at = now + self._look_s

    def kill(self, hard: bool) -> None:
        self._killed = True
        self._signal(signal.SIGKILL if hard else signal.SIGTERM)

    def end_group(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            pass

    def reap(self, output_max: int, memory: MemoryKills) -> RunnerExited:
        """Its end in words, and what it had written; closes and removes everything of it."""
        code = self._popen.wait()
        out_of_memory = memory.happened() and code == -signal.SIGKILL and not self._killed
        stdout, stderr = (_ends(fd, output_max) for fd in self.outputs)
        for fd in (self.read_fd, self.write_fd, self.pidfd, *self.outputs):
            os.close(fd)
        shutil.rmtree(self.folder, ignore_errors=True)
        how = "out of memory, killed by the kernel" if out_of_memory else _words(code)
        if self._scribbled:
            how = "something was written into the runner's pipe; did the function write to a descriptor not its own?"
        return RunnerExited(
            runner=self.number,
            status=code,
            how=how,
            out_of_memory=out_of_memory,
            stdout=stdout,
            stderr=stderr,
        )


def _decode_frame(data: memoryview) -> list[Any] | None:
    """A frame of a runner; None: it is not one."""
    try:
        frame = _decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return frame if type(frame) is list and frame and _FRAME_LENGTHS.get(frame[0]) == len(frame) else None


#: kinds of frames that runners write, and how many elements each has
_FRAME_LENGTHS = {"ready": 4, "broken": 2, "done": 9, "skipped": 3}


def _words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.strsignal(-code)})"
    except ValueError:
        return f"signal {-code}"


def _pipe() -> tuple[int, int]:
    read_fd, write_fd = os.pipe()
    try:
        fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        pass  # over the user's share of pipe pages: the default size works as well
    return read_fd, write_fd


def _memory_file(name: str) -> int:
    fd = os.memfd_create(f"pyfi-{name}")
    # appending: whoever still writes after the file was emptied writes at its end, not behind a hole
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    return fd


def _ends(fd: int, limit: int) -> bytes:
    size = os.fstat(fd).st_size
    if size <= limit:
        return os.pread(fd, size, 0)
    half = limit // 2
    note = f"\n[... {size - 2 * half} bytes left out ...]\n".encode()
    return os.pread(fd, half, 0) + note + os.pread(fd, half, size - half)


def _remove_stale(scratch: Path) -> None:
    """Folders of runners whose rank died before it could remove them."""
    for folder in scratch.glob("runner-*"):
        pid = folder.name.split("-")[1]
        if not os.path.exists(f"/proc/{pid}"):
            shutil.rmtree(folder, ignore_errors=True)
