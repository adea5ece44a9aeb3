"""One runner process of a rank: its process group, its pipes, its board, the memory files behind its output.

Permits and answers pass over the board (``runner/board.py``). What the rank writes keeps its order: the permits of a
run are there before the run is, so a runner that waits for a run finds them; those that are given again come behind
what is to be skipped, and behind them a frame that wakes who waits for a permit.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import struct
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from pyfi_hpc.adapters.forked import Forked
from pyfi_hpc.adapters.surroundings import MemoryKills, added_environment, runner_environment, widen
from pyfi_hpc.model.effects import StartRunner
from pyfi_hpc.model.events import RunnerExited
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.runner.board import SIZE, Board, Gatekeeper, Scribbled

#: reads from, writes to, shares; and the pid of its parent
Body = Callable[[int, int, int, int], None]
CHILD = Path(__file__).parent.parent / "runner" / "child.py"
#: bytes read from one runner at once; one frame may be larger
READ_MAX = 1 << 20
_PIPE_BYTES = 256 << 10
#: for one read; malloc asks the kernel for anything larger, and gives it back, each time
_READ_BYTES = 64 << 10
#: output in a memory file while a task runs; beyond it only its ends are kept
_FLOOD_BYTES = 4 << 20
#: how often the output of a running task is looked at, seconds
_LOOK_MIN_S, _LOOK_MAX_S = 0.05, 0.2
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_PUNCH_HOLE_KEEP_SIZE = 3
_U32 = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class RunnerProcess:
    """One runner; OSError if it cannot be started.

    ``body``: not a program of the action's environment but a copy of this process, which goes on with that; it gets the
    three descriptors and the pid of its parent.
    """

    def __init__(self, action: StartRunner, limits: Limits, scratch: Path, body: Body | None = None) -> None:
        self.number = action.runner
        self.folder = scratch / f"runner-{os.getpid()}-{action.runner}"
        self.folder.mkdir(mode=0o700)
        self.mark = f"{os.getpid()}-{action.runner}"
        #: a task of it had ranks for a step
        self.had_step = False
        child_read, self.write_fd = _pipe()
        self.read_fd, child_write = _pipe()
        self.outputs = (_memory_file("stdout"), _memory_file("stderr"))
        board_fd = os.memfd_create("pyfi-board")
        os.ftruncate(board_fd, SIZE)
        self._board = Board(board_fd)
        self._gate = Gatekeeper(self._board)
        descriptors = (child_read, child_write, board_fd)
        try:
            if body is not None:
                self._popen: subprocess.Popen[bytes] | Forked = self._fork(body, descriptors)
            else:
                self._popen = self._start(action, limits, descriptors)
            widen(self._popen.pid, action.cores)
        except OSError:
            self._close()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        finally:
            for fd in descriptors:
                os.close(fd)
        self.pid = self._popen.pid
        self.pidfd = os.pidfd_open(self.pid)
        os.set_blocking(self.write_fd, False)
        os.set_blocking(self.read_fd, False)
        self.in_flight = 0
        #: answers came through its pipe when it was last read: then it is not waited for
        self.noisy = self.paused = False
        self.read_at = 0.0
        self.look_at = 0.0
        self._look_s = _LOOK_MIN_S
        self.hung_up = False
        #: what ``Runners`` waits for to become writable; -1: nothing
        self.watched = -1
        self._killed = False
        self._scribbled = False
        self._frame_bytes_max = 2 * (limits.payload_bytes_max + limits.output_bytes_max) + (1 << 20)
        self._inbox = bytearray()
        #: answers that came through the pipe, and whether it is the turn of one
        self._piped: deque[list[Any]] = deque()
        self._piped_is_next = False
        #: what is to be written, and numbers of permits to be given, in this order
        self._outbox: deque[memoryview | int] = deque()
        #: what was written last may say that tasks are to be skipped: before the next permit counts it is to be read
        self._look_first = False

    def _start(
        self, action: StartRunner, limits: Limits, descriptors: tuple[int, int, int]
    ) -> subprocess.Popen[bytes]:
        arguments = [
            action.python, "-I", "-X", "faulthandler", str(CHILD), *map(str, descriptors), str(os.getpid()),
            action.workdir, action.module, str(limits.output_bytes_max), str(limits.payload_bytes_max),
        ]  # fmt: skip
        # start_new_session: one signal reaches everything that the function started
        return subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=self.outputs[0], stderr=self.outputs[1],
            pass_fds=descriptors, cwd=self.folder,
            env=runner_environment(action.python, self.mark) | dict(action.variables),
            start_new_session=True,
        )  # fmt: skip

    def _fork(self, body: Body, descriptors: tuple[int, int, int]) -> Forked:
        parent, nothing = os.getpid(), os.open(os.devnull, os.O_RDONLY)

        def go_on() -> None:
            for fd in (self.read_fd, self.write_fd, nothing):
                os.close(fd)
            body(*descriptors, parent)

        try:
            return Forked(go_on, nothing, *self.outputs, self.folder, added_environment(self.mark))
        finally:
            os.close(nothing)

    @property
    def blocked(self) -> int:
        """The pipe that takes no more now, though something waits to be written; -1: none."""
        return self.write_fd if self._outbox else -1

    @property
    def awake(self) -> bool:
        """Its answers are looked for, without a word from it."""
        return not self._gate.asleep

    def watch(self) -> None:
        """Look for its answers from now on."""
        self._gate.wake()

    def rest(self) -> bool:
        """Let it say when there is an answer; False: there is one now."""
        return self._gate.sleep() or self._scribbled

    def write(self, frame: list[Any], permits: int = 0) -> None:
        """Give so many permits and write a frame; never blocks."""
        if frame[0] == "run":
            self.in_flight += len(frame[7]) // 4 - 1
            self.had_step = self.had_step or len(frame) > 13
            self._look_s = _LOOK_MIN_S
            self.look_at = monotonic() + _LOOK_MIN_S
        elif frame[0] == "skip":
            self.in_flight -= frame[3] - frame[2]
        if permits:
            self._outbox.append(permits)
        self._put(frame)
        self.flush()

    def take_permits(self) -> int:
        """Take back all permits of tasks that have not begun, and say how many: so many tasks cannot start."""
        unsent = [entry for entry in self._outbox if isinstance(entry, int)]
        self._outbox = deque(entry for entry in self._outbox if not isinstance(entry, int))
        self._look_first = True
        return self._gate.take_back() + sum(unsent)

    def give_permits(self, permits: int) -> None:
        self._outbox.append(permits)
        self._put(["go"])
        self.flush()

    def _put(self, frame: list[Any]) -> None:
        data = _encode(frame)
        self._outbox.append(memoryview(_U32.pack(len(data)) + data))

    def flush(self) -> None:
        """Write what the pipe takes now."""
        while self._outbox:
            head = self._outbox[0]
            if isinstance(head, int):
                self._gate.give(head, self._look_first)
                self._look_first = False
                self._outbox.popleft()
                continue
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

    def read(self, at_end: bool = False) -> list[list[Any]]:
        """What it has said, in its order: frames, and answers from the board.

        At most ``READ_MAX`` bytes are taken from the pipe unless one frame is longer. ``at_end``: it is dead, and what
        it wrote before it could say so on the board counts too.
        """
        frames: list[list[Any]] = []
        taken = cut = 0
        while not self.hung_up and (taken < READ_MAX or not cut):
            try:
                data = os.read(self.read_fd, _READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                self.hung_up = True
            self._inbox += data
            taken += len(data)
            cut += self._cut(frames)
            if len(data) < _READ_BYTES:
                break  # the pipe is empty: spare the read that says so
        self.noisy = bool(self._piped)
        self._take_answers(frames)
        if at_end and not self._scribbled:
            frames += self._piped
            self._piped.clear()
        return frames

    def _cut(self, frames: list[list[Any]]) -> int:
        """Take complete frames out of the inbox, and say how many."""
        at = cut = 0
        with memoryview(self._inbox) as view:
            while len(view) - at >= 4:
                size = _U32.unpack_from(view, at)[0]
                end = at + 4 + size
                if len(view) < end and size <= self._frame_bytes_max:
                    break
                frame = _decode_frame(view[at + 4 : end])
                if frame is None or size > self._frame_bytes_max:
                    self._distrust()
                    return cut
                cut += 1
                if frame[0] == "done":
                    self._piped.append(frame)
                elif frame[0] != "look":
                    frames.append(frame)
                at = end
        del self._inbox[:at]
        return cut

    def _take_answers(self, frames: list[list[Any]]) -> None:
        """From the board, and from the pipe those whose turn it is."""
        while not self._scribbled:
            if self._piped_is_next:
                if not self._piped:
                    return
                frames.append(self._piped.popleft())
                self._piped_is_next = False
                self.in_flight -= 1
            try:
                blocks = self._gate.blocks()
            except Scribbled:
                self._distrust()
                return
            for block in blocks:
                if block is None:
                    self._piped_is_next = True
                else:
                    frames.append(["returned", *block])
                    self.in_flight -= block[0]
            if not self._piped_is_next:
                return

    def _distrust(self) -> None:
        """The function wrote into the runner's pipe or board: nothing that comes from it can be believed any more."""
        self.hung_up = self._scribbled = True
        self._signal(signal.SIGKILL)

    def look(self, now: float, output_max: int) -> None:
        """Keep the memory files small while a task floods them: what lies between their ends is given back.

        Their size still says how much was written, and the ends are as they are: whoever takes them meanwhile sees no
        difference.
        """
        grown = False
        for fd in self.outputs:
            found = os.fstat(fd)
            lo, hi = output_max // 2, found.st_size - output_max // 2
            # a large file that is being emptied has no size any more, and blocks for a moment longer
            if found.st_blocks * 512 > _FLOOD_BYTES and lo < hi:
                grown = True
                _punch(fd, lo, hi)
        self._look_s = _LOOK_MIN_S if grown else min(2 * self._look_s, _LOOK_MAX_S)
        self.look_at = now + self._look_s

    def kill(self, hard: bool) -> None:
        self._killed = True
        self._signal(signal.SIGKILL if hard else signal.SIGTERM)

    def end_group(self) -> None:
        self._signal(signal.SIGKILL)

    def _close(self) -> None:
        for fd in (self.read_fd, self.write_fd, *self.outputs):
            os.close(fd)
        self._board.close()

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
        self._close()
        os.close(self.pidfd)
        shutil.rmtree(self.folder, ignore_errors=True)
        how = "out of memory, killed by the kernel" if out_of_memory else _words(code)
        if self._scribbled:
            how = (
                "something was written into the runner's pipe or shared memory; did the function write to a "
                "descriptor, or an address, not its own?"
            )
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
_FRAME_LENGTHS = {"place": 7, "ready": 4, "broken": 2, "look": 1, "done": 9}


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


def _punch(fd: int, lo: int, hi: int) -> None:
    """Give the memory of a part of a file back: it reads as zeros, and the file keeps its size."""
    if _fallocate(fd, _PUNCH_HOLE_KEEP_SIZE, lo, hi - lo) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _ends(fd: int, limit: int) -> bytes:
    size = os.fstat(fd).st_size
    if size <= limit:
        return os.pread(fd, size, 0)
    half = limit // 2
    note = f"\n[... {size - 2 * half} bytes left out ...]\n".encode()
    return os.pread(fd, half, 0) + note + os.pread(fd, half, size - half)
