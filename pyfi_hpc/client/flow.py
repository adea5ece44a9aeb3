"""Running a structure: from its plan to the batches of one job."""

from __future__ import annotations

from typing import Any

from pyfi_hpc.client import session as session_module
from pyfi_hpc.client.answers import encode_body
from pyfi_hpc.client.arguments import Slots, encode_arguments
from pyfi_hpc.client.calls import Future
from pyfi_hpc.client.feed import pack
from pyfi_hpc.client.job import Job
from pyfi_hpc.client.options import Options
from pyfi_hpc.client.outcome import Result, shape_of
from pyfi_hpc.client.session import Session
from pyfi_hpc.client.structure import Structure, Task, batches_of, plan_of
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.messages import Submit


def run(structure: Structure, wait: bool, options: dict[str, Any]) -> Job:
    """Submit a structure as one job. Cost: about 10 us a step.

    Raises
    ------
    FlowError
        The structure is wrong; nothing was submitted.
    Unserialisable, TooLarge
        Nor with an argument that cannot be sent.
    PyfiError
        With ``wait``: the broker refused it.
    """
    chosen = structure.options.but(**options)
    tasks, template, session = plan_of(structure)
    session = session or session_module.current()
    session.ready()
    inbox = session.inbox()
    inbox.shape = shape_of(_results(template))
    if not tasks:  # parallel([]): a result, and nothing to do
        inbox.sealed(0)
        return Job(session, inbox)
    encoded = [_encode(session, task) for task in tasks]
    submission = session.open(inbox)
    inbox.name = chosen.name
    inbox.sealed(len(tasks))
    for message in _messages(tasks, encoded, chosen, inbox.shape, submission.key):
        session.submit(submission, message)
    job = Job(session, inbox, submission)
    if wait:
        job.id  # noqa: B018 - waits, and raises what the broker refused
    return job


class _Slots(Slots):
    """Slots for futures, and for tasks of the same job."""

    __slots__ = ()

    def __call__(self, value: Any) -> int | None:
        if type(value) is not Task:
            return super().__call__(value)
        slot = self._slots.get(id(value))
        if slot is None:
            slot = self._slots[id(value)] = len(self.needs)
            self.needs.append(value)  # type: ignore[arg-type]
        return slot


def _encode(session: Session, task: Task) -> tuple[bytes, list[Any]]:
    slots = _Slots(session)
    whose = f"a step of {task.socket}"
    payload = encode_arguments(task.args, task.kwargs, slots, session.payload_bytes_max, whose)
    return payload, slots.needs


def _messages(
    tasks: list[Task], encoded: list[tuple[bytes, list[Any]]], job: Options, shape: bytes, key: bytes
) -> list[Submit]:
    limits = Limits()
    cuts = batches_of(
        tasks, [len(payload) for payload, _ in encoded], limits.batch_tasks_max, limits.batch_bytes_goal
    )
    messages = []
    for number, (lo, hi) in enumerate(cuts):
        offsets, payload = pack([payload for payload, _ in encoded[lo:hi]])
        edges = [
            (offset, slot, *_producer(need))
            for offset, (_, needs) in enumerate(encoded[lo:hi])
            for slot, need in enumerate(needs)
        ]
        step = tasks[lo].options
        messages.append(Submit(
            key, number, lo, hi - lo, hi == len(tasks), tasks[lo].socket, offsets, payload,
            encode_body(edges) if edges else b"", step.priority or job.priority, step.retries or job.retries,
            step.time_limit_s or job.time_limit_s, job.name, shape if number == 0 else b"",
            int(job.on_failure), project=job.project, at_once=job.at_once,
            preemptible=step.preemptible or job.preemptible, terms=step.terms or job.terms, size=step.size or job.size,
            hold=job.hold,
        ))  # fmt: skip
    return messages


def _producer(need: Task | Future) -> tuple[int, int]:
    """(job, index) of what a slot stands for; job 0 is the job itself."""
    return (0, need.index) if isinstance(need, Task) else (need.job, need._index)


def _results(template: Any) -> Any:
    """Tasks in a template to the places of their results."""
    if type(template) is Task:
        return Result(template.index)
    return [_results(part) for part in template]
