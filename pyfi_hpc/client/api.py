"""Everything a workflow script imports: ``from pyfi_hpc.client.api import Socket, pipeline, parallel``"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyfi_hpc.client.executor import Executor
from pyfi_hpc.client.job import Job, attach
from pyfi_hpc.client.objects import Function, Processor, Queue, Socket, functions
from pyfi_hpc.client.options import DEFAULT
from pyfi_hpc.client.structure import Funnel, Parallel, Pipeline, Segment, Step, Structure

__all__ = [
    "Executor",
    "Function",
    "Job",
    "Processor",
    "Queue",
    "Socket",
    "Step",
    "Structure",
    "attach",
    "functions",
    "funnel",
    "parallel",
    "pipeline",
    "segment",
]


def pipeline(steps: Iterable[Any], **options: Any) -> Pipeline:
    """Steps one after the other: each receives the previous result first, then its own arguments.

    Parameters
    ----------
    steps : iterable
        Steps (``socket.p(...)``, or made by ``functions``) and structures.
    **options
        Of the whole flow: ``name`` and ``on_failure`` ("finish" or "cancel"); ``retries``, ``time_limit`` and
        ``priority`` for steps that have none of their own.

    Raises
    ------
    FlowError
        No steps, or something that is not a step.

    Examples
    --------
    >>> square, add = functions("hello.square", "hello.add")
    >>> pipeline([square(3), add(1), square()])
    pipeline([hello.square(3), hello.add(1), hello.square()])
    """
    return Pipeline(steps, DEFAULT.but(**options) if options else DEFAULT)


def parallel(branches: Iterable[Any], **options: Any) -> Parallel:
    """All at once; the result is the list of their results, in this order.

    In a pipeline each branch receives the previous result first. ``parallel([])`` gives ``[]``.
    Options as for ``pipeline``.
    """
    return Parallel(branches, DEFAULT.but(**options) if options else DEFAULT)


def funnel(branches: Iterable[Any], final: Any = None, **options: Any) -> Funnel:
    """All at once, then ``final`` once: it receives the list of all results first, then its own arguments.

    ``funnel([a, b], c)()`` and ``funnel([a, b])(c)`` are the same. Options as for ``pipeline``.
    """
    return Funnel(branches, final, DEFAULT.but(**options) if options else DEFAULT)


def segment(fn: Any, items: Iterable[Any], n: int, **options: Any) -> Segment:
    """A function over items, the results in lists of ``n``: ten items by 4 give lists of 4, 4 and 2.

    Parameters
    ----------
    fn
        A function of ``functions``, a Socket, or a socket's name.
    items : iterable
        A tuple is the arguments of a call, anything else the one argument.
    n : int
        Results in one list, from 1 up.
    """
    make = functions(fn) if isinstance(fn, str) else fn.p
    return Segment(make, items, n, DEFAULT.but(**options) if options else DEFAULT)
