"""The board: memory that a runner and its rank share, so that permits and answers cost no system call.

Words of 8 bytes, each written by one side only, and rings that the runner fills and the rank empties::

    GATE      rank     how many tasks may start in all; above that whether the rank sleeps, the number of its nap, and
                       how often the runner was told to look at its inbox first
    TAKEN     rank     answers whose places are free again
    FREE      rank     up to where the ring of results is free again
    AT        runner   twice the tasks that are answered, plus one while another runs or is about to
    started durations lengths   of answer n at n % ANSWERS; length 0: it went through the pipe
    results   the bytes one after the other; a result that does not fit before the ring's end starts at its beginning

To start a task the runner writes AT, then reads GATE. To take permits back, or to sleep, the rank writes GATE, then
reads AT. So at least one of the two sees what the other has written, if no processor reads ahead of its own write.
That takes a barrier on each side: the runner's would come with every task, the rank's is rare. So the rank pays for
both: ``fence`` is the kernel's ``membarrier``, which makes a barrier on every processor that runs a registered
process. Where the kernel refuses it each side makes its own, by a pass through the scheduler: a system call, for the
runner with every task.

A word is written by one instruction (memoryview copies 8 aligned bytes in native order), so nobody sees half of one.
What was written before AT is there when AT was read and a fence was made; a process that has died has made its own.

Stands on the ground: the rank imports it, ``child.py`` loads it by its path.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from array import array

#: answers and bytes of results that the rank has not taken; beyond either the runner waits. Powers of two
ANSWERS, RESULT_BYTES = 2048, 128 << 10
#: a longer result goes through the pipe
LENGTH_MAX = RESULT_BYTES // 8
_STARTED = RESULT_BYTES
_DURATIONS = _STARTED + 8 * ANSWERS
_LENGTHS = _DURATIONS + 4 * ANSWERS
_WORDS = _LENGTHS + 4 * ANSWERS
#: words of the two sides lie in lines of their own: a processor's cache is taken away in lines
GATE, TAKEN, FREE, AT = 0, 1, 2, 16
SIZE = _WORDS + 4096

#: parts of GATE
ALLOWED = (1 << 39) - 1
ASLEEP = 1 << 39
NAP_SHIFT, LOOK_SHIFT, COUNTED = 40, 52, (1 << 12) - 1

_SYSCALL = {"x86_64": 324, "aarch64": 283, "riscv64": 283, "loongarch64": 283, "ppc64le": 365, "s390x": 356}
_GLOBAL_EXPEDITED, _REGISTER_GLOBAL_EXPEDITED = 2, 4
_number = ctypes.c_long(_SYSCALL.get(os.uname().machine, -1))
_syscall = ctypes.CDLL(None).syscall


def register() -> bool:
    """Let other processes' fences reach this one; False: the kernel does not do that, and this one must fence too."""
    return bool(_syscall(_number, _REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0)


def fence() -> None:
    """A memory barrier here and in all registered processes, 2 us; without the system call for it, here only."""
    if _syscall(_number, _GLOBAL_EXPEDITED, 0, 0) != 0:
        os.sched_yield()  # passes through the scheduler, which makes one


class Board:
    """One process's view of a board.

    Parameters
    ----------
    fd : int
        A memory file of ``SIZE`` bytes; may be closed afterwards.
    """

    def __init__(self, fd: int) -> None:
        self.memory = _mapped(fd)
        self._view = memoryview(self.memory)
        self.words = self._view[_WORDS:].cast("Q")
        self.started = self._view[_STARTED:_DURATIONS].cast("d")
        self.durations = self._view[_DURATIONS:_LENGTHS].cast("f")
        self.lengths = self._view[_LENGTHS:_WORDS].cast("I")

    def close(self) -> None:
        for view in (self.words, self.started, self.durations, self.lengths, self._view):
            view.release()
        self.memory.close()


def _mapped(fd: int) -> mmap.mmap:
    """The file's memory, and no descriptor of it: a function that writes to whatever is open must not hit answers."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, SIZE, trackfd=False)
    number = os.dup(fd)
    os.close(number)
    memory = mmap.mmap(fd, SIZE)  # keeps a copy of the descriptor, under the lowest number that is free
    if _is_open(number) and os.path.sameopenfile(fd, number):
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, number, inheritable=False)
        os.close(null)
    return memory


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


class Scribbled(Exception):
    """The board does not say what a runner says: somebody else has written there."""


#: answers in their order: how many, when each started, how long it took, how long its result is, the results joined
Block = tuple[int, bytes, bytes, "array[int]", bytes]


class Gatekeeper:
    """The rank's side of a board: gives and takes permits, sleeps and wakes, takes answers."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._words = board.words
        #: permits given in all, and how often the runner was told to look at its inbox first
        self._given = self._looks = 0
        #: the runner is to say when there is something to take: once in each nap
        self.asleep = True
        self._nap = 0
        #: answers and bytes that were taken
        self.taken = self._free = 0
        self._show(0)

    def give(self, permits: int, look_first: bool) -> None:
        """So many more tasks may start; ``look_first``: not before the runner has read what is in its pipe now."""
        if look_first:
            self._looks += 1
            fence()  # what is in the pipe is there before the permits are
        self._given += permits
        self._show(self._given)

    def take_back(self) -> int:
        """Take back all permits of tasks that have not begun, and say how many."""
        self._show(0)
        fence()
        given, self._given = self._given, min((self._words[AT] + 1) // 2, self._given)
        self._show(self._given)
        return given - self._given

    def wake(self) -> None:
        """No word from the runner is needed: answers are looked for."""
        if self.asleep:
            self.asleep = False
            self._show(self._given)

    def sleep(self) -> bool:
        """Let the runner say when there is an answer; False: there is one now."""
        self.asleep = True
        self._nap += 1  # another one each time: the word that woke us may have been one of answers that we had already
        self._show(self._given)
        fence()
        self._let_go()
        return int(self._words[AT]) // 2 == self.taken

    def _show(self, allowed: int) -> None:
        counted = (self._looks & COUNTED) << LOOK_SHIFT | (self._nap & COUNTED) << NAP_SHIFT
        self._words[GATE] = self._shown = counted | (ASLEEP if self.asleep else 0) | allowed

    def _let_go(self) -> None:
        """Behind a fence: what was copied from there before has been read."""
        self._words[TAKEN], self._words[FREE] = self.taken, self._free

    def blocks(self) -> list[Block | None]:
        """The answers that are here; None stands for one that went through the pipe, and ends the list.

        Raises
        ------
        Scribbled
        """
        if self._words[GATE] != self._shown:
            raise Scribbled
        waiting = self._words[AT] // 2 - self.taken
        if not waiting:
            return []
        if not 0 < waiting <= ANSWERS or self.taken + waiting > self._given:
            raise Scribbled
        fence()
        self._let_go()
        found: list[Block | None] = []
        while waiting:
            at = self.taken % ANSWERS
            count = min(waiting, ANSWERS - at)
            block = self._block(at, count)
            if block is None:
                self.taken += 1
                return [*found, None]
            found.append(block)
            self.taken += block[0]
            waiting -= block[0]
        return found

    def _block(self, at: int, count: int) -> Block | None:
        """Up to so many answers whose results lie together; None: the first one went through the pipe."""
        board = self._board
        lengths = array("I", board.lengths[at : at + count].tobytes())
        if 0 in lengths:
            count = lengths.index(0)
            del lengths[count:]
            if not count:
                return None
        size, place = sum(lengths), self._free % RESULT_BYTES
        if place + size > RESULT_BYTES:
            count, size = _before_end(lengths, RESULT_BYTES - place)
            if not count:
                self._free += RESULT_BYTES - place
                return self._block(at, len(lengths))
            del lengths[count:]
        self._free += size
        started, durations = board.started[at : at + count], board.durations[at : at + count]
        return count, _little(started, "d"), _little(durations, "f"), lengths, board.memory[place : place + size]


def _before_end(lengths: array[int], room: int) -> tuple[int, int]:
    """How many of these fit, and their size."""
    size = 0
    for count, length in enumerate(lengths):
        if length > LENGTH_MAX:
            raise Scribbled
        if size + length > room:
            return count, size
        size += length
    return len(lengths), size


def _little(values: memoryview[float], kind: str) -> bytes:
    """As it travels."""
    if sys.byteorder == "little":
        return values.tobytes()
    swapped = array(kind, values.tobytes())
    swapped.byteswap()
    return swapped.tobytes()
