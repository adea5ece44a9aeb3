"""The runner's side of the board: claims tasks and answers them (``board.py`` says how)."""

from __future__ import annotations

import os
from time import sleep
from typing import Any

from . import board
from .pipes import Outbox

_AT, _GATE = board.AT, board.GATE
_ANSWERS, _RESULT_BYTES = board.ANSWERS, board.RESULT_BYTES
#: how often a runner whose board is full looks whether the rank has taken something, seconds
_ROOM_S = 0.001
#: what came of asking for a permit: one, none, or that the inbox is to be read first
PERMIT, NONE, LOOK_FIRST = range(3)


class Answers:
    """The runner's side of the board: claims tasks and answers them.

    Parameters
    ----------
    fd : int
        Of the board.
    outbox : Outbox
    """

    def __init__(self, fd: int, outbox: Outbox) -> None:
        shared = board.Board(fd)
        os.close(fd)
        self._words, self._memory = shared.words, shared.memory
        self._started, self._durations, self._lengths = shared.started, shared.durations, shared.lengths
        self._outbox = outbox
        #: the rank's fences reach this process; else it needs its own
        self._is_fenced = board.register()
        #: tasks that are answered
        self._count = 0
        #: up to where the results' ring is full
        self._place = 0
        #: the gate as it was last seen, -1 where each task is to ask; and what it said
        self._gate, self._allowed, self._looks = -1, 0, 0
        #: answers that the rank was told of, and numbers up to which there is room
        self._told, self._nap = 0, -1
        self._count_end = self._place_end = 0

    def claim(self) -> bool:
        """Answers so far can be read, and another task is about to start; False: ask."""
        self._words[_AT] = 2 * self._count + 1
        return self._words[_GATE] == self._gate and self._count < self._allowed

    def ask(self) -> int:
        """Claim, and look what the rank says."""
        if not self._is_fenced:
            board.fence()
        self._words[_AT] = 2 * self._count + 1
        if not self._is_fenced:
            board.fence()
        gate = self._words[_GATE]
        is_asleep = gate & board.ASLEEP
        if is_asleep:
            self._wake(gate)
        looks = gate >> board.LOOK_SHIFT
        if looks != self._looks:
            self._looks = looks
            board.fence()  # the gate was read before the inbox is
            return LOOK_FIRST
        self._allowed = gate & board.ALLOWED
        if self._count >= self._allowed:
            self.end()
            return NONE
        # a rank that sleeps and was told of nothing is to be told of the next answer
        is_told = not is_asleep or gate >> board.NAP_SHIFT & board.COUNTED == self._nap
        self._gate = gate if is_told and self._is_fenced else -1
        return PERMIT

    def end(self) -> None:
        """No task is about to start."""
        self._words[_AT] = 2 * self._count
        if not self._is_fenced:
            board.fence()
        gate = self._words[_GATE]
        if gate & board.ASLEEP:
            self._wake(gate)

    def tell(self) -> None:
        """A run has ended, or nothing is left to do: the rank is to look, if it was not told of all answers."""
        gate = self._words[_GATE]
        if gate & board.ASLEEP:
            self._wake(gate)
        elif self._told != self._count:
            self._told = self._count
            self._outbox.put(["look"])

    def _wake(self, gate: int) -> None:
        """The rank sleeps: wake it if there are answers, once in each of its naps."""
        nap = gate >> board.NAP_SHIFT & board.COUNTED
        if self._told != self._count and nap != self._nap:
            self._told, self._nap = self._count, nap
            self._outbox.put(["look"])

    def put(self, started: float, duration: float, result: bytes) -> None:
        """Answer on the board: before the next claim, or the end, nobody sees it."""
        count, length, at = self._count, len(result), self._place % _RESULT_BYTES
        if at + length > _RESULT_BYTES:
            self._place += _RESULT_BYTES - at
            at = 0
        end = self._place + length
        if count >= self._count_end or end > self._place_end:
            self._wait_for_room(end)
        self._memory[at : at + length] = result
        k = count % _ANSWERS
        self._started[k], self._durations[k], self._lengths[k] = started, duration, length
        self._place, self._count = end, count + 1

    def pipe(self, frame: list[Any]) -> None:
        """Answer through the pipe; its place on the board says so."""
        if self._count >= self._count_end:
            self._wait_for_room(self._place)
        self._outbox.put(frame)
        self._lengths[self._count % _ANSWERS] = 0
        self._count += 1

    def _wait_for_room(self, place: int) -> None:
        while True:
            self._count_end = self._words[board.TAKEN] + _ANSWERS
            self._place_end = self._words[board.FREE] + _RESULT_BYTES
            if self._count < self._count_end and place <= self._place_end:
                return
            self.tell()
            sleep(_ROOM_S)
