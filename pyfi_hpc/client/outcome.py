"""What a task left behind, as the value or the exception that its caller gets."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError
from typing import Any

from pyfi_hpc import errors
from pyfi_hpc.errors import TaskError, TaskFailed, TaskLost, TaskSkipped, TaskTimeout
from pyfi_hpc.model.states import TaskState
from pyfi_hpc.runner.payload import (
    Failure,
    decode_call,
    decode_error,
    decode_value,
    encode_value,
    rebuild_error,
)

__all__ = ["TaskCancelled", "error_of", "first_failure", "shape_of", "shaped", "value_of"]


class TaskCancelled(errors.TaskCancelled, CancelledError):
    """The task was cancelled; submit it again if its result is needed."""


def value_of(state: int, data: bytes, task: str) -> Any:
    """The value of a completed task; raises what ``error_of`` gives for the others."""
    if state != TaskState.COMPLETED:
        raise error_of(state, data, task)
    return decode_value(data)


def error_of(state: int, data: bytes, task: str) -> Exception:
    """The exception for a task that did not complete.

    A builtin exception is raised as itself, its type and arguments kept; others as TaskFailed, which names
    the type. Each has ``task`` (its id), ``others`` (further failures of the structure) and the traceback.
    """
    failure = _failure(data)
    if state == TaskState.FAILED:
        return _failed(failure, task)
    kind = _KINDS.get(state, TaskFailed)
    error = kind(failure.message or None, task=task, where=f"task {task}")
    cause = rebuild_error(failure)
    if cause is not None and cause.__cause__ is not None:
        error.__cause__ = cause
    return error


def _failed(failure: Failure, task: str) -> Exception:
    error = rebuild_error(failure)
    if error is not None:
        error.task, error.others = task, []  # type: ignore[attr-defined]
        error.add_note(f"raised by task {task}; `pyfi ls call --id {task}` shows every attempt")
        return error
    if failure.module == errors.__name__ and failure.type_name == TaskLost.__name__:
        return TaskLost(failure.message or None, task=task, where=f"task {task}")
    name = (
        failure.type_name if failure.module in ("", "builtins") else f"{failure.module}.{failure.type_name}"
    )
    failed = TaskFailed(
        f"{name}: {failure.message}" if name else failure.message or None, type_name=name,
        traceback_text=failure.traceback_text, task=task, where=f"task {task}",
    )  # fmt: skip
    if failure.traceback_text:
        failed.add_note(failure.traceback_text)
    return failed


def first_failure(failures: Iterable[Exception]) -> Exception:
    """The first of them, with the others attached in order (FEATURES, ruling 3)."""
    first, *others = failures
    first.others = others  # type: ignore[attr-defined]
    return first


def own(error: BaseException) -> BaseException:
    """A copy for one of several who get the same error, so that they do not share a traceback."""
    try:
        return copy.copy(error)
    except Exception:  # a foreign exception that cannot be copied is shared
        return error


# --- the shape of a job's result ----------------------------------------------------------------------

#: a value as the only argument of a call: decode_call knows how to fill in results, decode_value does not
_CALL_HEAD, _CALL_TAIL = b"\x92\x91", b"\x80"


class Result:
    """Stands for the result of a task of the same job in a shape."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


def shape_of(template: Any) -> bytes:
    """A template with ``Result`` at any depth of lists, tuples and dict values, as bytes."""
    return encode_value(template, "shape", lambda value: value.index if type(value) is Result else None)


def shaped(shape: bytes, results: Sequence[bytes]) -> Any:
    """The job's result: the template with each task's value in its place; ``results`` by index in the job."""
    args, _ = decode_call(_CALL_HEAD + shape + _CALL_TAIL, results)
    return args[0]


def _failure(data: bytes) -> Failure:
    if not data:
        return Failure("", "", "", "", None)
    try:
        return decode_error(data)
    except ValueError:
        return Failure("", "", "its error cannot be read", "", None)


_KINDS: dict[int, type[TaskError]] = {
    TaskState.TIMEOUT: TaskTimeout,
    TaskState.CANCELLED: TaskCancelled,
    TaskState.SKIPPED: TaskSkipped,
}
