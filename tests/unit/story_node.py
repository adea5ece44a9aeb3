"""Stories of the agent and of the rank: their events in words, their effects in lines."""

from __future__ import annotations

import signal
import struct
from typing import Any

from story import Teller, Words, read_span, span

from pyfi_hpc.core.agent import BROKER, Agent
from pyfi_hpc.core.rank import AGENT, RankMachine
from pyfi_hpc.model import effects as e
from pyfi_hpc.model import events as ev
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.model.states import Cause


def outcome(item: Any, first: int, count: int, cause: str, rank: int) -> m.Outcome:
    """Of tasks of an item or a bundle."""
    return m.Outcome(
        item.grant, item.batch, first - item.first + item.lo, count, item.attempt, rank, bytes([Cause[cause]]) * count,
        bytes(8 * count), struct.pack(f"<{count}f", *[0.001] * count), offsets_of([b""] * count), b"",
    )  # fmt: skip


def ends(x: m.Outcome, first: int, job: int) -> str:
    """How tasks of an outcome ended, equal ones together."""
    found: list[tuple[int, int, int]] = []
    for at, cause in enumerate(x.causes):
        if found and found[-1][2] == cause:
            found[-1] = (found[-1][0], found[-1][1] + 1, cause)
        else:
            found.append((first + at, 1, cause))
    return ", ".join(f"{span(at, count, job)} {Cause(cause).name}" for at, count, cause in found)


class AgentTeller(Teller):
    """``agent n1 with 2 ranks``: they are there, the broker has said Welcome, the code of all tasks is checked."""

    scene = "agent"

    def set_scene(self, words: str) -> None:
        _, name, _, ranks, *more = words.split()
        ends_at = float(more[more.index("until") + 1]) if "until" in more else float("inf")
        allocation = "77" if "allocation" in more else ""
        self.machine = Agent(self.limits, name, "1", allocation, int(ranks), 4, True, 0.0, ends_at=ends_at)
        self._grants: dict[int, str] = {}
        self._items: dict[str, m.Item] = {}
        self._bundles: dict[int, m.Bundle] = {}
        self._pids = {number: 100 + number for number in range(int(ranks))}
        self.tell([])
        for rank, pid in self._pids.items():
            self.tell([self._hears(f"r{rank}", m.RankReady(rank, int(ranks), pid, rank))])
        welcome = m.Welcome(1, 1, 1 << 20, self.limits.heartbeat_s, self.limits.lease_s)
        self.tell([self._hears("broker", welcome)])
        if "unchecked" not in more:
            self.tell([self._hears("broker", self._mount()), ev.CodeChecked(1, "")])

    def _mount(self) -> m.Mount:
        return m.Mount(1, "repository", "commit", "sample", "environment", "python", "workdir")

    def _hears(self, who: str, message: m.Message) -> ev.Received:
        peer = BROKER if who == "broker" else Peer(who.encode())
        return ev.Received(peer, "broker" if who == "broker" else "rank", "", message)

    def event(self, who: str, words: Words) -> list[Any]:
        if who == "node":
            return [getattr(self, f"_node_{words.verb}")(words)]
        if who == "broker":
            return [self._hears(who, getattr(self, f"_broker_{words.verb}")(words))]
        return [self._hears(who, getattr(self, f"_rank_{words.verb}")(who, words))]

    # --- the broker -----------------------------------------------------------------------------------

    def _broker_Welcome(self, w: Words) -> m.Message:
        return m.Welcome(1, w.number("epoch", 1), 1 << 20, self.limits.heartbeat_s, self.limits.lease_s)

    def _broker_Unknown(self, w: Words) -> m.Message:
        return m.Unknown()

    def _broker_Denied(self, w: Words) -> m.Message:
        return m.Denied(w.alone[0], "")

    def _broker_Beat(self, w: Words) -> m.Message:
        return m.Beat(1)

    def _broker_Mount(self, w: Words) -> m.Message:
        return self._mount()

    def _broker_Grant(self, w: Words) -> m.Message:
        """``Grant g1 1.0..3 attempt=2``: job and batch have one number. ``after=g0:1.0``: each takes that result."""
        name, where = w.alone
        job, first, count = read_span(where)
        payload = offsets_of([b"x"] * count), b"x" * count
        maker, _, task = w.get("after").partition(":")
        inputs = [[(self._items[maker].grant, read_span(task)[1])] for _ in range(count)] if maker else []
        item = m.Item(
            len(self._items) + 1, job, job, first, first, count, w.number("attempt", 1), 1, "work", 0.0, *payload,
            inputs, needs_s=float(w.get("needs", "0")), state=w.get("state").encode(),
        )  # fmt: skip
        self._items[name], self._grants[item.grant] = item, name
        return m.Grant(1, [item])

    def _broker_Recall(self, w: Words) -> m.Message:
        return m.Recall(int(w.alone[0]))

    def _broker_Cancel(self, w: Words) -> m.Message:
        _, first, count = read_span(w.alone[1])
        return m.Cancel(0, self._items[w.alone[0]].grant, first, count)

    def _broker_Preempt(self, w: Words) -> m.Message:
        _, first, count = read_span(w.alone[1])
        return m.Preempt(self._items[w.alone[0]].grant, first, count, bool(w.number("running")))

    def _broker_Kept(self, w: Words) -> m.Message:
        _, first, count = read_span(w.alone[1])
        return m.Kept([(self._items[w.alone[0]].grant, first, count)])

    def _broker_Rest(self, w: Words) -> m.Message:
        return m.Rest(w.number("rank"), float(w.get("seconds")), w.get("reason", "broken"))

    def _broker_Stop(self, w: Words) -> m.Message:
        return m.Stop(bool(w.number("drain")))

    # --- ranks and the node ---------------------------------------------------------------------------

    def _rank_RankReady(self, who: str, w: Words) -> m.Message:
        number = int(who[1:])
        self._pids[number] = self._pids.get(number, 100) + 100
        return m.RankReady(number, 2, self._pids[number], number)

    def _rank_RankBeat(self, who: str, w: Words) -> m.Message:
        return m.RankBeat(1)

    def _rank_Done(self, who: str, w: Words) -> m.Message:
        """``Done b1 1.0 NONE``."""
        bundle = self._bundles[int(w.alone[0][1:])]
        _, first, count = read_span(w.alone[1])
        return m.Done(bundle.bundle, outcome(bundle, first, count, w.alone[2], int(who[1:])))

    def _node_died(self, w: Words) -> Any:
        return ev.ProcessExited(self._pids[int(w.alone[0][1:])], "signal 9")

    def _node_checked(self, w: Words) -> Any:
        return ev.CodeChecked(1, w.get("problem"))

    def _node_signal(self, w: Words) -> Any:
        return ev.Signalled(w.alone[0])

    def _node_unreachable(self, w: Words) -> Any:
        return ev.Unreachable(BROKER if w.alone[0] == "broker" else Peer(w.alone[0].encode()))

    # --- effects --------------------------------------------------------------------------------------

    def lines(self, out: Effects) -> list[str]:
        found = [f"to {peer.decode():7}{self._message(message)}" for peer, message in [*out.at_once, *out.messages]]
        found += [f"do        {self._action(action)}" for action in out.actions]
        return [*found, "stopped"] if self.machine.stopped else found

    def _message(self, x: Any) -> str:
        match x:
            case m.Hello():
                held = "".join(f" holds {self._grants[h.grant]}" for h in x.held)
                return f"Hello {x.name} ranks={x.rank_count}{held}"
            case m.Capacity():
                text = f"Capacity {x.tasks} ranks={x.rank_count}" + (" draining" if x.draining else "")
                return text + "".join(f", rank {rank} rests for {s:g} s: {why}" for rank, s, why in x.resting)
            case m.Finished():
                return "Finished " + ", ".join(map(self._outcome, x.outcomes))
            case m.Bundle():
                self._bundles[x.bundle] = x
                state = f" from {x.state.decode()}" if x.state else ""
                return f"Bundle b{x.bundle} {span(x.first, x.count, x.job)} attempt {x.attempt}{state}"
            case m.Kill():
                b = self._bundles[x.bundle]
                where = span(b.first + x.lo - b.lo, x.count, b.job) if x.count >= 0 else "all"
                return f"Kill b{x.bundle} {where} {Cause(x.cause).name}"
            case m.Goodbye():
                return f"Goodbye {x.reason}"
            case m.Beat() if x.running:
                return "Beat runs " + " ".join(self._running(*one) for one in x.running)
        return type(x).__name__

    def _running(self, grant: int, offset: int) -> str:
        item = self._items[self._grants[grant]]
        return f"{item.job}.{item.first + offset - item.lo}"

    def _outcome(self, x: m.Outcome) -> str:
        item = self._items[self._grants[x.grant]]
        rank = f" rank {x.rank}" if x.rank >= 0 else ""
        return f"{self._grants[x.grant]} {ends(x, item.first + x.lo - item.lo, item.job)}{rank}"

    def _action(self, x: Any) -> str:
        match x:
            case e.ReplaceRank():
                return f"ReplaceRank {x.rank}"
            case e.StartRanks():
                return f"StartRanks {x.count}"
            case e.KillProcess() | e.WatchProcess():
                who = next((f"r{number}" for number, pid in self._pids.items() if pid == x.pid), "one that has gone")
                return f"{type(x).__name__} {who}"
            case e.CheckCode():
                return f"CheckCode {x.code}"
        return type(x).__name__


class RankTeller(Teller):
    """``rank 0``: its agent knows it; runners are numbered as they start."""

    scene = "rank"

    def set_scene(self, words: str) -> None:
        self.machine = RankMachine(self.limits, int(words.split()[1]), 2, 100, 0)
        self._bundles: dict[int, m.Bundle] = {}
        self._runs: dict[int, tuple[m.Bundle, int]] = {}
        self.tell([])
        self.tell([ev.Received(AGENT, "agent", "", m.Beat(1))])

    def event(self, who: str, words: Words) -> list[Any]:
        if who == "agent":
            return [ev.Received(AGENT, "agent", "", getattr(self, f"_agent_{words.verb}")(words))]
        return [getattr(self, f"_runner_{words.verb}")(int(who.split()[1]), words)]

    def _agent_Beat(self, w: Words) -> m.Message:
        return m.Beat(1)

    def _agent_Bundle(self, w: Words) -> m.Message:
        """``Bundle b1 1.0..2 time_limit=5``."""
        number, (job, first, count) = int(w.alone[0][1:]), read_span(w.alone[1])
        self._bundles[number] = m.Bundle(
            number, number, job, job, first, first, count, w.number("attempt", 1), "python", "workdir", "sample",
            "work", float(w.get("time_limit", "0")), offsets_of([b"x"] * count), b"x" * count,
        )  # fmt: skip
        return self._bundles[number]

    def _agent_Kill(self, w: Words) -> m.Message:
        _, first, count = read_span(w.alone[1])
        return m.Kill(int(w.alone[0][1:]), first, count, Cause[w.alone[2]])

    def _agent_Stop(self, w: Words) -> m.Message:
        return m.Stop(bool(w.number("drain")))

    def _runner_ready(self, runner: int, w: Words) -> Any:
        return ev.RunnerSpoke(runner, [["ready", 1, 1, self.now]])

    def _runner_broken(self, runner: int, w: Words) -> Any:
        return ev.RunnerSpoke(runner, [["broken", b""]])

    def _runner_done(self, runner: int, w: Words) -> Any:
        """``done 1.0..2 NONE``: in the newest run that has it."""
        job, first, count = read_span(w.alone[0])
        frames = []
        for index in range(first, first + count):
            runs = ((r, b.first + at) for r, (b, at) in reversed(self._runs.items()) if self._in(b, at, job, index))
            run, base = next(runs)
            frames.append(["done", run, index - base, int(Cause[w.alone[1]]), self.now, 0.01, b"", None, None])
        return ev.RunnerSpoke(runner, frames)

    def _in(self, bundle: m.Bundle, at: int, job: int, index: int) -> bool:
        return bundle.job == job and bundle.first + at <= index < bundle.first + bundle.count

    def _runner_permits(self, runner: int, w: Words) -> Any:
        """``permits 2``: so many were taken back, so the last two tasks of its line have not begun."""
        return ev.PermitsTaken(runner, int(w.alone[0]))

    def _runner_died(self, runner: int, w: Words) -> Any:
        """``died 11``: of a signal; ``died 9 out_of_memory=1``."""
        number = int(w.alone[0])
        name = signal.Signals(number).name
        return ev.RunnerExited(runner, -number, f"signal {number} ({name})", bool(w.number("out_of_memory")))

    def lines(self, out: Effects) -> list[str]:
        found = [f"to agent  {self._message(message)}" for _, message in [*out.at_once, *out.messages]]
        found += [f"do        {self._action(action)}" for action in out.actions]
        return [*found, "stopped"] if self.machine.stopped else found

    def _message(self, x: Any) -> str:
        if isinstance(x, m.Done):
            bundle = self._bundles[x.bundle]
            return f"Done b{x.bundle} {ends(x.outcome, bundle.first + x.outcome.lo - bundle.lo, bundle.job)}"
        return type(x).__name__

    def _action(self, x: Any) -> str:
        if isinstance(x, e.WriteRunner):
            permits = f", permits {x.permits}" if x.permits else ""
            return f"tell runner {x.runner} {self._frame(x.frame)}{permits}"
        if isinstance(x, e.TakePermits):
            return f"take permits of runner {x.runner}"
        if isinstance(x, e.GivePermits):
            return f"give runner {x.runner} permits {x.count}"
        if isinstance(x, e.KillRunner):
            return f"kill runner {x.runner} {'SIGKILL' if x.hard else 'SIGTERM'}"
        assert isinstance(x, e.StartRunner)
        return f"start runner {x.runner}"

    def _frame(self, frame: list[Any]) -> str:
        if frame[0] == "run":
            _, run, job, first, attempt, grant, *_ = frame
            bundle = self._bundles[grant]
            self._runs[run] = (bundle, first - bundle.first)
            return f"run {run}: {span(first, bundle.first + bundle.count - first, job)} attempt {attempt}"
        return " ".join(map(str, frame))
