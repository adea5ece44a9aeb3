"""Job: a handle on what one request submitted, in this process or in any other.

run = flow(wait=False); print(run.id)            # here; then log out
pyfi_hpc.attach(17).get()                        # there
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pyfi_hpc.client import session as session_module
from pyfi_hpc.client.calls import state_of
from pyfi_hpc.client.outcome import error_of, first_failure, shaped, value_of
from pyfi_hpc.client.session import Session
from pyfi_hpc.client.sinks import Inbox, Submission
from pyfi_hpc.errors import NotFound, UsageError
from pyfi_hpc.model.ids import task_name
from pyfi_hpc.model.states import FIRST_FINAL, TaskState
from pyfi_hpc.runner.payload import decode_error, decode_value

#: failures beyond the first that are attached to it
OTHERS_MAX = 100
_JOB_ID = re.compile(r"(\d+)(?:\.(\d+))?")
#: how the broker names the task that made another one SKIPPED
_CAUSE = re.compile(r"\btask (\d+)\.(\d+)\b")


class Job:
    """The tasks of one request and their results.

    Results are kept as they came and decoded when asked for. Dropping the handle does not touch the job.
    """

    def __init__(self, session: Session, inbox: Inbox, submission: Submission | None = None) -> None:
        self._session = session
        self._inbox = inbox
        self._submission = submission

    # --- what it is ---

    @property
    def id(self) -> int:
        """The job's id, good in any process; waits until the job is in the ledger.

        Raises
        ------
        PyfiError
            The job was refused.
        """
        inbox, submission = self._inbox, self._submission
        if submission is not None and not inbox.job:
            self._session.wait_accepted(lambda: bool(inbox.job or submission.error or inbox.error))
            if not inbox.job:
                raise submission.error or inbox.error or UsageError("the job was not submitted")
        return inbox.job

    @property
    def name(self) -> str:
        return self._inbox.name

    @property
    def total(self) -> int:
        """Tasks of the job; -1 while more may follow."""
        return self._inbox.feed.total

    @property
    def counts(self) -> dict[str, int]:
        """Tasks by state, as far as this process has heard; what is not final counts as PENDING."""
        feed = self._inbox.feed
        counts = {state.word: n for state in _FINAL_STATES if (n := feed.states.count(state))}
        if feed.total > feed.count:
            counts[TaskState.PENDING.word] = feed.total - feed.count
        return counts

    @property
    def status(self) -> str:
        """One word for the whole job: PENDING, RUNNING (some tasks are final), then the worst end."""
        if not self.done():
            return "RUNNING" if self._inbox.feed.count else TaskState.PENDING.word
        return next((state.word for state in _WORST_FIRST if state in self._inbox.feed.states), "COMPLETED")

    state = status

    def done(self) -> bool:
        """Every task is final, and its result is here."""
        return self._inbox.feed.complete

    # --- what came of it ---

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every task is final; False: not within ``timeout`` seconds.

        Raises
        ------
        BrokerUnreachable
            The broker was silent for too long. The job goes on: wait again, or attach it later.
        """
        try:
            self._inbox.wait(self.done, timeout, "the job's end")
        except TimeoutError:
            return False
        return True

    def get(self, timeout: float | None = None) -> Any:
        """The job's result: of a call its value, of a structure the nested lists, of a map the list.

        Raises
        ------
        Exception
            What the first task that failed raised, in order of submission; ``others`` has further failures.
        TimeoutError
            Not everything is final after ``timeout`` seconds.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"job {self._inbox.job or '(not accepted)'} has not ended after {timeout} s")
        states = self._inbox.feed.states
        if states.count(TaskState.COMPLETED) < len(states):
            raise self._failure()
        results = _Results(self._inbox, len(states))
        if not self._inbox.shape:
            return [decode_value(data) for data in results]
        return shaped(self._inbox.shape, results)

    result = get

    def results(self, timeout: float | None = None) -> Iterator[Any]:
        """Values of all tasks by index, each as soon as it and those before it are there.

        ``timeout`` is for each of them, in seconds. A task that failed raises in its place and ends it.
        """
        index = 0
        while True:
            self._wait_for(index, timeout)
            if not self._has(index):
                return
            state, data = self._inbox.raw(index)
            yield value_of(state, data, task_name(self.id, index))
            index += 1

    def cancel(self) -> int:
        """End all tasks that are not final; how many this request ended."""
        return self._session.cancel(self.id)

    def hold(self) -> None:
        """Nothing more of it starts until ``release``; what runs goes on.

        Raises
        ------
        NotFound
            It has ended.
        """
        self._session.set_hold(self.id, True)

    def release(self) -> None:
        """What was submitted with ``hold=True``, or put on hold, may start. Raises as ``hold``."""
        self._session.set_hold(self.id, False)

    def __getitem__(self, index: int) -> TaskHandle:
        """One task of the job."""
        return TaskHandle(self, index)

    def __repr__(self) -> str:
        feed = self._inbox.feed
        done = f"{feed.count}/{feed.total if feed.total >= 0 else '?'}"
        return f"<pyfi_hpc Job {self._inbox.job or 'not accepted'} {self.name} {self.status} {done}>"

    # --- helpers ---

    def _wait_for(self, index: int, timeout: float | None) -> None:
        """Wait until a task is final, or cannot exist."""
        self._inbox.wait(
            lambda: self._has(index) or self._ends_at(index), timeout, f"result {index} of the job"
        )

    def _has(self, index: int) -> bool:
        states = self._inbox.feed.states
        return index < len(states) and states[index] != 0

    def _ends_at(self, index: int) -> bool:
        return 0 <= self._inbox.feed.total <= index

    def _failure(self) -> Exception:
        """The first failure, with the others; one that was only skipped is told by its cause."""
        failed = _in_order(self._inbox)
        job = self._inbox.job
        errors = [error_of(*self._inbox.raw(i), task_name(job, i)) for i in failed[: OTHERS_MAX + 1]]
        return first_failure(errors)


class TaskHandle:
    """One task of a job; what a future's ``id`` names."""

    def __init__(self, job: Job, index: int) -> None:
        self._job = job
        self.index = index

    @property
    def id(self) -> str:
        return task_name(self._job.id, self.index)

    @property
    def status(self) -> str:
        """As a future's: of a task that is not final the broker is asked."""
        return self._word() if self.done() else state_of(self._job._session, self.id)

    def _word(self) -> str:
        return TaskState(self._job._inbox.feed.states[self.index] if self.done() else TaskState.PENDING).word

    def done(self) -> bool:
        return self._job._has(self.index)

    def get(self, timeout: float | None = None) -> Any:
        """The task's value; raises as a future's ``result``."""
        job, inbox, index = self._job, self._job._inbox, self.index
        job._wait_for(index, timeout)
        if not job._has(index):
            raise NotFound(f"there is no task {self.id}", where=f"job {job.id} has {job.total} tasks")
        return value_of(*inbox.raw(index), self.id)

    result = get

    def wait(self, timeout: float | None = None) -> bool:
        try:
            self._job._inbox.wait(self.done, timeout, f"task {self.index}")
        except TimeoutError:
            return False
        return True

    def cancel(self) -> bool:
        """End the task; True if it ended CANCELLED."""
        self._job._session.cancel(self._job.id, self.index, 1)
        return self.wait(self._job._session.settings.timeout_s) and self.status == TaskState.CANCELLED.word

    def __repr__(self) -> str:
        return f"<pyfi_hpc task {self.id} {self._word()}>"


def attach(
    job_id: int | str, instance: str | None = None, *, session: Session | None = None
) -> Job | TaskHandle:
    """A handle on a job, or one of its tasks, that this or another process submitted.

    Parameters
    ----------
    job_id : int or str
        ``J`` for a job, ``J.i`` (a future's ``id``) for one task.
    instance : str, optional
        As for ``Executor``.

    Raises
    ------
    NotFound
        The ledger has no such job of yours.
    BrokerUnreachable
        No broker answers.
    """
    match = _JOB_ID.fullmatch(str(job_id).strip())
    if match is None:
        raise UsageError(
            f"{job_id!r} is not the id of a job or task", fix="write 17, or 17.3 for one task of it"
        )
    if session is None:
        session = session_module.current(instance)
    inbox = session.watch(int(match[1]))
    inbox.wait(lambda: inbox.described, None, f"job {match[1]}")
    job = Job(session, inbox)
    return job if match[2] is None else job[int(match[2])]


class _Results(Sequence[bytes]):
    """Encoded results by index, read where they lie."""

    def __init__(self, inbox: Inbox, count: int) -> None:
        self._inbox = inbox
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._inbox.raw(index)[1]


def _in_order(inbox: Inbox) -> list[int]:
    """Indexes of failures, first the one that a reader of the result meets first.

    A structure's tasks are numbered by level, so its failures are looked for along its shape: for a result
    that was skipped, the failure that it was skipped for. What only followed from a failure comes behind it.
    """
    states = inbox.feed.states
    failed = [i for i, state in enumerate(states) if state > FIRST_FINAL]
    met: list[int] = []
    if inbox.shape:
        shaped(inbox.shape, _Noting(inbox, met))
    order = sorted(dict.fromkeys(met + failed), key=lambda i: _CONSEQUENCE.get(states[i], 0))
    causes = [i for i in order if states[i] != TaskState.SKIPPED]
    return causes or order


class _Noting(_Results):
    """Follows a shape, noting failures where their values would be."""

    def __init__(self, inbox: Inbox, met: list[int]) -> None:
        super().__init__(inbox, len(inbox.feed.states))
        self._met = met

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        at: int | None = index
        for _ in range(self._count):
            if at is None or self._inbox.feed.states[at] != TaskState.SKIPPED:
                break
            at = self._cause(at)
        if at is not None and self._inbox.feed.states[at] > FIRST_FINAL:
            self._met.append(at)
        return _NIL

    def _cause(self, index: int) -> int | None:
        """The task of this job for which a task was skipped."""
        try:
            found = _CAUSE.search(decode_error(self._inbox.raw(index)[1]).message)
        except ValueError:
            return None
        if found is None or int(found[1]) != self._inbox.job:
            return None
        cause = int(found[2])
        return cause if cause < index else None


_NIL = b"\xc0"
#: ends that follow from another task's: siblings were cancelled, dependents skipped
_CONSEQUENCE: dict[int, int] = {TaskState.CANCELLED: 1, TaskState.SKIPPED: 2}
_FINAL_STATES = [state for state in TaskState if state >= FIRST_FINAL]
_WORST_FIRST = [TaskState.FAILED, TaskState.TIMEOUT, TaskState.CANCELLED, TaskState.SKIPPED]
