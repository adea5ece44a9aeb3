"""What surrounds an agent on its node: the rank step, processes to watch, code to check, load to sample.

A Doer for the agent's actions and a Port for what comes of them. One epoll descriptor stands for all.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from pyfi_hpc.adapters import launcher
from pyfi_hpc.adapters.node_code import NodeCode
from pyfi_hpc.adapters.surroundings import Leftovers, end_step
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.model.effects import (
    Action,
    CheckCode,
    EndStep,
    KillProcess,
    ReplaceRank,
    Sample,
    StartRanks,
    WatchProcess,
)
from pyfi_hpc.model.events import CodeChecked, ProcessExited, Sampled

log = logging.getLogger("pyfi_hpc.agent")

#: how often, at the end of a step and then once a second, what is left of it is looked for
_LOOKS = 3


class NodeProcesses:
    """Carries out the agent's actions.

    Parameters
    ----------
    rank_command : list of str
        Starts one rank; ``--replace N --core C`` is added for a replacement.
    rank_log : file
        Where ranks' own standard output and error go; not those of tasks.
    whose_steps : str
        See surroundings.whose_steps.
    own_code : NodeCode, optional
        Prepares code that is missing, on a node that does not see the instance's home.
    """

    def __init__(
        self, rank_command: list[str], rank_log: IO[bytes], whose_steps: str, own_code: NodeCode | None = None
    ) -> None:
        self._rank_command = rank_command
        self._rank_log = rank_log
        self._epoll = select.epoll()
        self._nudge = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._nudge, select.EPOLLIN)
        self.waitable = self._epoll.fileno()
        self._events: list[Any] = []
        #: pidfd -> pid
        self._watched: dict[int, int] = {}
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        #: pid -> number of the rank that it replaces
        self._replacing: dict[int, int] = {}
        self._leftovers = Leftovers()
        self._whose_steps = whose_steps
        #: steps that have ended, and how often it is looked again whether something of them is there: what was being
        #: started when they ended comes late
        self._ended_steps: dict[str, int] = {}
        self._own_code = own_code
        #: from threads that prepare code
        self._prepared: queue.SimpleQueue[CodeChecked] = queue.SimpleQueue()

    def do(self, action: Action) -> None:
        _DO[type(action)](self, action)

    def receive(self) -> list[Any]:
        for descriptor, _ in self._epoll.poll(0):
            if descriptor == self._nudge:
                os.eventfd_read(self._nudge)
            else:
                self._gone(descriptor)
        events, self._events = self._events, []
        while not self._prepared.empty():
            events.append(self._prepared.get())
        return events

    def _gone(self, descriptor: int) -> None:
        pid = self._watched.pop(descriptor)
        self._epoll.unregister(descriptor)
        os.close(descriptor)
        child = self._children.pop(pid, None)
        how = "it is gone"
        if child is not None:
            code = child.wait()
            how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        log.info("= process %d ended: %s", pid, how)
        self._events.append(ProcessExited(pid, how, self._replacing.pop(pid, -1)))

    def _start_ranks(self, action: StartRanks) -> None:
        try:
            command = launcher.step_command(launcher.find_mpiexec(), action.count, self._rank_command)
            self._adopt(launcher.start(command, self._rank_log))
        except (PyfiError, OSError, subprocess.SubprocessError) as error:
            log.error("cannot start the ranks: %s", error)
            self._tell(ProcessExited(0, str(error)))

    def _replace_rank(self, action: ReplaceRank) -> None:
        command = [*self._rank_command, "--replace", str(action.rank), "--core", str(action.core)]
        log.warning("= rank %d is replaced", action.rank)
        try:
            child = launcher.start(command, self._rank_log)
        except (OSError, subprocess.SubprocessError) as error:
            log.error("cannot replace rank %d: %s", action.rank, error)
            self._tell(ProcessExited(0, str(error), action.rank))
            return
        self._replacing[child.pid] = action.rank
        self._adopt(child)

    def _adopt(self, child: subprocess.Popen[bytes]) -> None:
        self._children[child.pid] = child
        self._watch(child.pid)

    def _watch_process(self, action: WatchProcess) -> None:
        if action.pid not in self._watched.values():
            self._watch(action.pid)

    def _watch(self, pid: int) -> None:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._tell(ProcessExited(pid, "it was gone already"))
            return
        self._watched[descriptor] = pid
        self._epoll.register(descriptor, select.EPOLLIN)

    def _kill(self, action: KillProcess) -> None:
        """Only what is watched: a pid that was used again by somebody else is not ours to end."""
        for descriptor, pid in self._watched.items():
            if pid == action.pid:
                try:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL if action.hard else signal.SIGTERM)
                except ProcessLookupError:
                    pass

    def _end_step(self, action: EndStep) -> None:
        self._ended_steps[action.token] = _LOOKS
        self._end_steps()

    def _end_steps(self) -> None:
        for token, looks in list(self._ended_steps.items()):
            ended = end_step(self._whose_steps, token)
            if ended:
                log.warning("= %d processes were left of the step of grant %s", ended, token)
            self._ended_steps[token] = looks - 1
            if looks <= 1:
                del self._ended_steps[token]

    def _check_code(self, action: CheckCode) -> None:
        if self._own_code is not None:
            # an environment takes minutes: beats must go on
            threading.Thread(target=self._prepare, args=(self._own_code, action), daemon=True).start()
            return
        problem = ""
        if not os.access(action.python, os.X_OK):
            problem = f"the environment {action.environment} is not on this node: {action.python}"
        elif not Path(action.workdir).is_dir():
            problem = f"the code {action.repository} @ {action.commit[:12]} is not on this node: {action.workdir}"
        self._tell(CodeChecked(action.code, problem))

    def _prepare(self, code: NodeCode, action: CheckCode) -> None:
        try:
            python, workdir = code.prepare(action)
            checked = CodeChecked(action.code, "", python, workdir)
        except PyfiError as error:
            checked = CodeChecked(action.code, "\n".join(filter(None, (error.what, error.fix))))
        except Exception as error:  # nobody would hear of it, and the tasks would wait for ever
            log.exception("cannot prepare code %d", action.code)
            checked = CodeChecked(action.code, f"{type(error).__name__}: {error}")
        self._prepared.put(checked)
        os.eventfd_write(self._nudge, 1)

    def _sample(self, action: Sample) -> None:
        self._end_steps()
        self._leftovers.end(set(self._children))
        self._tell(Sampled(os.getloadavg()[0], _memory_used()))

    def _tell(self, event: Any) -> None:
        self._events.append(event)
        os.eventfd_write(self._nudge, 1)

    def close(self, patience_s: float = 2.0) -> None:
        """End the children that are left: the launcher ends by itself once its ranks have."""
        for child in self._children.values():
            try:
                child.wait(patience_s)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        self._leftovers.end(set(), at_close=True)


def _memory_used() -> int:
    """Bytes of memory in use on this node."""
    with open("/proc/meminfo", "rb", buffering=0) as file:
        first = file.read(256)  # asked each second: MemTotal, MemFree and MemAvailable are its first lines
    kilobytes = {line.split()[0]: int(line.split()[1]) for line in first.splitlines()[:3]}
    return 1024 * (kilobytes[b"MemTotal:"] - kilobytes[b"MemAvailable:"])


_DO: dict[type, Callable[[NodeProcesses, Any], None]] = {
    StartRanks: NodeProcesses._start_ranks,
    ReplaceRank: NodeProcesses._replace_rank,
    KillProcess: NodeProcesses._kill,
    EndStep: NodeProcesses._end_step,
    CheckCode: NodeProcesses._check_code,
    WatchProcess: NodeProcesses._watch_process,
    Sample: NodeProcesses._sample,
}
