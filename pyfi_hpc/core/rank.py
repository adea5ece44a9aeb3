"""What a rank decides: which runner runs which bundle, how long a task may take, and what to report.

One core, so one runner is active at a time; bundles run in the order of their arrival. A bundle is written
to a runner as a *run*; what a dying runner leaves of it goes to the next one as a new run. The first task
without an outcome of the oldest run is its *head*: the one that runs, and the one that a death or a time
limit is charged to. Outcomes of a bundle are reported in order, except that what is handed back is told at once.

What a rank knows of its runner lags, so it never guesses what has begun. Behind each run go permits, one a task, and
the runner takes one before it starts a task. To hand tasks back, to cancel one or to end the one that runs the rank
first takes all permits back: their number says which tasks have begun, and nothing starts until it has said what to
skip and has given the rest of the permits again.

    runner   starting --ready--> ready --signal or stop--> ending --RunnerExited--> gone

Slurm ends an allocation by a TERM to every process of it, runners too: no crash, and the agent is about to tell the
broker. A runner that dies of a TERM which is not ours is looked at a moment later.
"""

from __future__ import annotations

from array import array
from collections import deque
from struct import unpack
from typing import Any

from pyfi_hpc.core.outcomes import death_error
from pyfi_hpc.core.reports import Reports
from pyfi_hpc.core.runs import GANG, Key, Runner, Work
from pyfi_hpc.errors import RemoteProtocolError
from pyfi_hpc.model.effects import Effects, GivePermits, KillRunner, StartRunner, TakePermits, WriteRunner
from pyfi_hpc.model.events import PermitsTaken, Received, RunnerExited, RunnerSpoke, Signalled, Unreachable
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.messages import Beat, Bundle, Kill, RankBeat, RankReady, Stop
from pyfi_hpc.model.states import Cause

#: the only peer of a rank
AGENT = Peer(b"agent")
#: runs written to a runner: the one that runs and one ahead
RUNS_AHEAD = 2
#: runners kept warm, of other environments than the active one
WARM_MAX = 4
#: an import that takes longer has failed, seconds
IMPORT_LIMIT_S = 120.0
#: between two attempts to reach the agent at start, seconds
GREET_S = 0.02
#: what ends an allocation reaches its processes within this time, and the agent tells its ranks to stop, seconds
TERM_S = 1.0
_SIGTERM = 15


class RankMachine:
    """See ``ports.Machine``.

    Parameters
    ----------
    rank, world : int
        Number in, and size of, its MPI world.
    pid, core : int
        Of this process; -1 where it is not bound to a core.
    world_id : str
        Tells MPI worlds apart; empty: there is no MPI process beside this one.
    """

    def __init__(
        self,
        limits: Limits,
        rank: int,
        world: int,
        pid: int,
        core: int,
        import_limit_s: float = IMPORT_LIMIT_S,
        world_id: str = "",
    ) -> None:
        self.stopped = False
        self._limits = limits
        self._ready = RankReady(rank=rank, world=world, pid=pid, core=core, world_id=world_id)
        self._import_limit_s = import_limit_s
        self._work: deque[Work] = deque()
        self._runners: dict[int, Runner] = {}
        self._next_runner = 1
        self._next_run = 1
        self._counter = 0
        self._beat_at = float("inf")
        self._heard_at = 0.0
        #: when to say (again) that this rank is there
        self._greet_at = 0.0
        #: the agent has answered
        self._known = False
        #: UTC minus the loop's clock, learned from what runners say; only for what people read
        self._utc_offset = 0.0
        #: no new work; what runs is finished first
        self._draining = False
        #: everything ends now
        self._leaving = False
        #: somebody else wants this process to end
        self._terminated = False
        self._leave_at = float("inf")
        self._reports = Reports(rank, limits.batch_bytes_goal)

    # --- what happens ---------------------------------------------------------------------------------

    def handle(self, event: Any, now: float, out: Effects) -> None:
        """Take one event."""
        if isinstance(event, RunnerSpoke):
            self._spoke(event, now, out)
        elif isinstance(event, PermitsTaken):
            self._permits_taken(event, now, out)
        elif isinstance(event, RunnerExited):
            self._exited(event, now, out)
        elif isinstance(event, Received):
            self._heard_at = now
            if not self._known:
                self._known = True
                self._beat_at = now
            self._received(event.message, now, out)
        elif isinstance(event, Signalled):
            self._terminated = self._terminated or event.what == "stop"
        elif isinstance(event, Unreachable):
            self._unreachable(now, out)
        self._reports.flush(out, AGENT)

    def advance(self, now: float, out: Effects) -> None:
        """Beat, look at the deadlines, give runners work."""
        if now >= self._greet_at:
            self._greet_at = float("inf")
            self._heard_at = self._heard_at or now
            out.reply(AGENT, self._ready)
        if now >= self._beat_at:
            self._counter += 1
            out.reply(AGENT, RankBeat(counter=self._counter))
            self._beat_at = now + self._limits.heartbeat_s
        if not self._leaving and now - self._heard_at > self._limits.lease_s:
            self._leave(now, out)  # nobody would hear of the outcomes
        for runner in list(self._runners.values()):
            if now >= runner.deadline:
                self._late(runner, now, out)
        if self._draining:
            self._drain(now, out)
        else:
            self._feed(now, out)
        self._reports.flush(out, AGENT)

    def wake_at(self) -> float:
        """The next beat or deadline."""
        deadlines = [runner.deadline for runner in self._runners.values()]
        silence_at = self._leave_at if self._leaving else self._heard_at + self._limits.lease_s
        return min(self._beat_at, self._greet_at, silence_at, *deadlines)

    def _unreachable(self, now: float, out: Effects) -> None:
        if not self._known:
            self._greet_at = now + GREET_S  # the connection is still being made
        elif not self._leaving:
            self._leave(now, out)  # outcomes were lost with it: the agent counts this rank as dead

    def _received(self, message: Any, now: float, out: Effects) -> None:
        if isinstance(message, Bundle):
            self._take(message, now, out)
        elif isinstance(message, Kill):
            self._kill(message, now, out)
        elif isinstance(message, Stop):
            self._stop(message.drain, now, out)
        elif not isinstance(message, Beat):
            raise RemoteProtocolError(f"a rank does not take {type(message).__name__}")

    def _take(self, bundle: Bundle, now: float, out: Effects) -> None:
        if len(bundle.offsets) != 4 * (bundle.count + 1) or bundle.count < 1:
            raise RemoteProtocolError(
                f"bundle {bundle.bundle}: its offsets are not those of {bundle.count} tasks"
            )
        work = Work(bundle)
        self._work.append(work)
        if self._draining:
            self._mark(work, range(bundle.count), Cause.RELEASED, now, out)

    # --- giving work ----------------------------------------------------------------------------------

    def _feed(self, now: float, out: Effects) -> None:
        """Write the oldest bundles to the runner of their environment, no other runner at the same time."""
        if not self._work:
            return
        key = self._work[0].key
        for r in self._runners.values():
            if r.runs and (r.ending or r.key != key):
                return  # another one is active, or dying
            if r.ending and not r.ready and r.key == key:
                return  # its import took too long: what waits for it fails with it
        runner = next((r for r in self._runners.values() if r.key == key and not r.ending), None)
        if runner is None:
            self._start(key, now, out)
        elif runner.ready and not runner.taking:
            for work in self._work:
                if len(runner.runs) >= RUNS_AHEAD or work.key != key:
                    break
                if not work.run:
                    self._write(runner, work, now, out)

    def _start(self, key: Key, now: float, out: Effects) -> None:
        idle = [r for r in self._runners.values() if r.ready and not r.ending and r.key != GANG]
        if len(idle) >= WARM_MAX:
            self._end(min(idle, key=lambda r: r.used_at), now, out)
        runner = Runner(self._next_runner, key, deadline=now + self._import_limit_s)
        self._next_runner += 1
        self._runners[runner.number] = runner
        python, workdir, module, (variables, cores) = key
        out.actions.append(StartRunner(runner.number, python, workdir, module, variables, cores, key == GANG))

    def _write(self, runner: Runner, work: Work, now: float, out: Effects) -> None:
        frame = work.as_run(self._next_run)
        self._next_run += 1
        self._skip(runner, work, sorted(work.skipped), out)  # before the run itself, so that it cannot be late
        permits = len(work.left()) - len(work.skipped)
        out.actions.append(WriteRunner(runner=runner.number, frame=frame, permits=permits))
        runner.runs.append(work)
        runner.used_at = now
        if len(runner.runs) == 1:
            self._head_began(runner, now)

    def _skip(self, runner: Runner, work: Work, positions: list[int], out: Effects) -> None:
        out.actions += [WriteRunner(runner=runner.number, frame=frame) for frame in work.skips(positions)]

    def _head_began(self, runner: Runner, now: float) -> None:
        runner.head_since = now
        if runner.ending:
            return  # its deadline is that of the grace
        runner.deadline = float("inf")
        if runner.runs and runner.runs[0].bundle.time_limit_s > 0:
            runner.deadline = now + runner.runs[0].bundle.time_limit_s

    # --- what runners say -----------------------------------------------------------------------------

    def _spoke(self, event: RunnerSpoke, now: float, out: Effects) -> None:
        runner = self._runners[event.runner]
        if self._leaving:
            return
        moved = False
        for frame in event.frames:
            match frame[0]:
                case "returned":
                    self._returned(runner, now, *frame[1:])
                    moved = True
                case "done":
                    _, run, index, cause, started, duration, result, stdout, stderr = frame
                    work = self._head(runner, run, index)
                    self._reports.add(work, cause, started, duration, result, stdout, stderr)
                    self._utc_offset = started + duration - now
                    self._settled(runner, work)
                    moved = True
                case "ready":
                    self._utc_offset = frame[3] - now
                    runner.ready = moved = True
                case "broken":
                    runner.told = True
                    self._fail_environment(runner.key, frame[1])
                case other:
                    raise AssertionError(f"a runner said {other!r}")
        if moved:
            self._head_began(runner, now)

    def _returned(
        self, runner: Runner, now: float, count: int, started: bytes, durations: bytes, lengths: array[int],
        payload: bytes,
    ) -> None:  # fmt: skip
        """So many tasks after each other returned and printed nothing; one block may hold the ends of several runs."""
        (began,), (took,) = unpack("<d", started[-8:]), unpack("<f", durations[-4:])
        self._utc_offset = began + took - now
        at = 0
        while at < count:
            work = runner.runs[0]
            few = min(count - at, work.in_a_row())
            ends = lengths[at : at + few]
            size = sum(ends)
            self._reports.add_returned(
                work, few, started[8 * at : 8 * (at + few)], durations[4 * at : 4 * (at + few)], ends, payload[:size]
            )
            payload = payload[size:]
            at += few
            self._settled(runner, work, few)

    def _head(self, runner: Runner, run: int, index: int) -> Work:
        work = runner.runs[0]
        assert (work.run, work.next) == (run, work.base + index), "outcomes come in order"
        return work

    def _settled(self, runner: Runner, work: Work, count: int = 1) -> None:
        """The head has its outcome, or so many that follow each other."""
        work.next += count
        if work.skipped or work.finished:
            self._pass_over(runner)

    def _pass_over(self, runner: Runner) -> None:
        """The next head is the first task that can start; what comes before it has an outcome by that."""
        while runner.runs:
            work = runner.runs[0]
            while not work.finished and work.next in work.skipped:
                self._reports.of_killed(work)
                work.next += 1
            if not work.finished:
                return
            runner.runs.popleft()
            self._work.remove(work)

    def _fail_environment(self, key: Key, error: bytes, stdout: bytes = b"", stderr: bytes = b"") -> None:
        """All bundles of this environment that wait: importing it again at once would fail again."""
        for work in [w for w in self._work if w.key == key and not w.run]:
            while not work.finished:
                cause = work.killed.get(work.next, Cause.ENVIRONMENT)
                self._reports.add(work, cause, 0.0, 0.0, error, stdout, stderr)
                work.next += 1
                stdout = stderr = b""
            self._work.remove(work)

    # --- how runners end ------------------------------------------------------------------------------

    def _exited(self, event: RunnerExited, now: float, out: Effects) -> None:
        runner = self._runners[event.runner]
        if event.status == -_SIGTERM and runner.runs and not runner.ending and not self._leaving:
            runner.lost, runner.ending, runner.deadline = event, True, now + TERM_S
        else:
            self._gone(event, now, out)

    def _gone(self, event: RunnerExited, now: float, out: Effects) -> None:
        runner = self._runners.pop(event.runner)
        if self._leaving:
            return  # the agent knows that what it gave us is lost
        if runner.key == GANG:
            self._ready.world_id = ""  # a world that a process has left cannot be joined again
            out.reply(AGENT, self._ready)
        if not runner.ready and not runner.told and not self._draining:
            how = f"the runner ended before it could import {runner.key[2]}: {event.how}"
            if runner.ending:
                how = f"importing {runner.key[2]} took longer than {self._import_limit_s:g} s"
            error = death_error(Cause.ENVIRONMENT, how, event.stderr)
            self._fail_environment(runner.key, error, event.stdout, event.stderr)
        if runner.runs:
            self._head_died(runner, event, now)
        for work in list(runner.runs):
            work.run = 0  # the others never started: a fresh runner takes them, nothing is charged
            self._unwritten(work)

    def _head_died(self, runner: Runner, event: RunnerExited, now: float) -> None:
        work = runner.runs[0]
        position = work.next
        cause = Cause.OUT_OF_MEMORY if event.out_of_memory else Cause.CRASH
        if runner.target is not None:
            target, at, cause = runner.target
            if (target, at) != (work, position):
                return  # the signal came after its task had ended, and this one had no permit
        self._reports.of_death(work, cause, event, runner.head_since + self._utc_offset, now - runner.head_since)
        self._settled(runner, work)

    def _late(self, runner: Runner, now: float, out: Effects) -> None:
        """A deadline passed: of the import, of the head, or of the grace."""
        if runner.lost is not None:
            if self._terminated:
                runner.target = (runner.runs[0], runner.runs[0].next, Cause.PREEMPTED)
            self._gone(runner.lost, now, out)
            return
        if runner.ending:
            self._signal(runner, now, out, hard=True)
            return
        if runner.runs:
            runner.late = (runner.runs[0], runner.runs[0].next)
            runner.deadline = float("inf")
            self._take_permits(runner, out)
        else:
            self._signal(runner, now, out)

    def _signal(self, runner: Runner, now: float, out: Effects, hard: bool = False) -> None:
        out.actions.append(KillRunner(runner=runner.number, hard=hard))
        runner.ending = True
        runner.deadline = now + self._limits.kill_grace_s

    def _end(self, runner: Runner, now: float, out: Effects) -> None:
        """End an idle runner in order."""
        runner.ending = True
        runner.deadline = now + self._limits.kill_grace_s
        out.actions.append(WriteRunner(runner=runner.number, frame=["stop"]))

    # --- killing and stopping -------------------------------------------------------------------------

    def _kill(self, kill: Kill, now: float, out: Effects) -> None:
        work = next((w for w in self._work if w.bundle.bundle == kill.bundle), None)
        if work is None:
            return  # all of it has ended already
        lo, hi = 0, work.bundle.count
        if kill.count >= 0:
            lo = kill.lo - work.bundle.lo
            hi = min(hi, lo + kill.count)
        self._mark(work, range(max(lo, work.next), hi), Cause(kill.cause), now, out)

    def _mark(self, work: Work, positions: range, cause: Cause, now: float, out: Effects) -> None:
        """These tasks are not to run. The one that runs is ended, unless it is only to be handed back."""
        fresh = [i for i in positions if work.killed.get(i, Cause.RELEASED) is Cause.RELEASED]
        if not fresh:
            return
        work.killed.update(dict.fromkeys(fresh, cause))
        runner = next((r for r in self._runners.values() if work in r.runs), None)
        if runner is None:
            self._unwritten(work)
        elif runner.ending:
            self._hand_back_unstarted(runner)
        else:
            self._take_permits(runner, out)

    def _unwritten(self, work: Work) -> None:
        """No runner has it: all of it can be handed back, and what comes first of it may have its outcome."""
        self._reports.hand_back(work, work.left())
        while not work.finished and work.next in work.killed:
            self._reports.of_killed(work)
            work.next += 1
        if work.finished:
            self._work.remove(work)

    def _take_permits(self, runner: Runner, out: Effects) -> None:
        if not runner.taking:
            runner.taking = True
            out.actions.append(TakePermits(runner=runner.number))

    def _permits_taken(self, event: PermitsTaken, now: float, out: Effects) -> None:
        """Now it is certain what has begun: end the one that runs if it is to end, else skip what is not to start."""
        runner = self._runners.get(event.runner)
        if runner is None or self._leaving:
            return
        runner.taking = False
        if runner.ending:
            self._hand_back_unstarted(runner)
            return
        line = runner.line()
        begun = len(line) - event.count
        assert begun >= 0, "there are no more permits than tasks"
        runner.target = runner.to_end(line[:begun])
        if runner.target is not None:  # it may have ended just now, but nothing else can be hit
            self._signal(runner, now, out)
            self._hand_back_unstarted(runner)
            return
        unstarted: dict[Work, list[int]] = {}
        for work, i in line[begun:]:
            if i in work.killed:
                unstarted.setdefault(work, []).append(i)
        for work, positions in unstarted.items():
            self._skip(runner, work, positions, out)
            work.skipped.update(positions)
            self._reports.hand_back(work, positions)
        left = event.count - sum(map(len, unstarted.values()))
        if left:
            out.actions.append(GivePermits(runner=runner.number, count=left))
        self._pass_over(runner)
        if not begun:
            self._head_began(runner, now)

    def _hand_back_unstarted(self, runner: Runner) -> None:
        """The runner ends."""
        for work, i in runner.unstarted():
            self._reports.hand_back(work, (i,))

    def _stop(self, drain: bool, now: float, out: Effects) -> None:
        if not drain:
            self._leave(now, out)
        elif not self._draining:
            self._draining = True
            for work in list(self._work):
                self._mark(work, range(work.next, work.bundle.count), Cause.RELEASED, now, out)

    def _drain(self, now: float, out: Effects) -> None:
        """Runners end as soon as they have nothing to finish; then this rank does."""
        for runner in self._runners.values():
            if not runner.ending and not runner.runs:
                if runner.ready:
                    self._end(runner, now, out)
                else:
                    self._signal(runner, now, out, hard=True)
        if not self._runners or now >= self._leave_at:
            self.stopped = True

    def _leave(self, now: float, out: Effects) -> None:
        """End at once; what runs is lost and not reported."""
        self._draining = self._leaving = True
        self._leave_at = now + self._limits.kill_grace_s
        self._work.clear()
        for runner in list(self._runners.values()):
            runner.runs.clear()
            if runner.lost is not None:
                del self._runners[runner.number]
            else:
                self._signal(runner, now, out, hard=True)
