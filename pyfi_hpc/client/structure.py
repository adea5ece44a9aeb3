"""Workflow structures, and how they become one job: pure, nothing runs here.

    Step        one call: a socket and the arguments of its own
    pipeline    each step receives the previous result first, then its own arguments
    parallel    each branch receives the previous result first; gives the list of results, in order
    funnel      parallel, then one final step that receives the list first
    segment     a function over items, the results in lists of n

Structures nest to any depth and keep their nesting (FEATURES, rulings 1 and 2). ``plan_of`` gives the tasks
and the shape of the result. Tasks are numbered by level, what depends on nothing first, and within a level in
the order in which they were written: so each depends only on lower numbers, and a thousand equal pipelines of
three steps are three batches and not three thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyfi_hpc.client.options import DEFAULT, Options
from pyfi_hpc.errors import FlowError

if TYPE_CHECKING:
    from pyfi_hpc.client.job import Job

#: structures inside each other; deeper is refused (one that contains itself is infinitely deep)
DEPTH_MAX = 80
_NOTHING: Any = object()


class Structure:
    """Anything that can be part of a workflow. ``run`` is given by the API; compiling needs no connection."""

    #: options of the whole job, for the outermost structure
    options: Options = DEFAULT

    def lay(self, plan: Plan, previous: Any, depth: int) -> Any:
        """Add the tasks of this structure to the plan; returns the template of its result."""
        raise NotImplementedError

    def __call__(self, *, wait: bool = True, **options: Any) -> Job:
        """Submit all of it as one job.

        Parameters
        ----------
        wait : bool
            Come back when the job is in the ledger, so that a refusal shows here. Its end is not waited for.
        **options
            ``name``, and ``on_failure="cancel"`` to end the siblings of a step that fails.

        Returns
        -------
        Job
            ``.get()`` waits for the result, ``.id`` finds it again from anywhere.
        """
        from pyfi_hpc.client.flow import run

        return run(self, wait, options)

    def get(self, timeout: float | None = None) -> Any:
        """Submit it, wait, and give its result."""
        return self(wait=False).get(timeout)


@dataclass(eq=False, slots=True)
class Task:
    """One planned call. ``args`` may hold other tasks (at any depth) and futures."""

    socket: str
    options: Options
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    level: int
    index: int = -1


@dataclass(slots=True)
class Plan:
    """Tasks in the order in which they were written."""

    tasks: list[Task] = field(default_factory=list)

    session: Any = None

    def add(self, step: Step, previous: Any) -> Task:
        if step.session is not None:
            if self.session not in (None, step.session):
                raise FlowError(
                    "the steps of a flow belong to different instances", where=repr(step)[:200],
                    fix="run a flow for each instance",
                )  # fmt: skip
            self.session = step.session
        args = step.args if previous is _NOTHING else (previous, *step.args)
        task = Task(
            step.socket, step.options, args, step.kwargs, 0 if previous is _NOTHING else _level(previous) + 1
        )
        self.tasks.append(task)
        return task

    def number(self) -> list[Task]:
        """Give every task its index in the job; stable within a level."""
        ordered = sorted(self.tasks, key=lambda task: task.level)
        for index, task in enumerate(ordered):
            task.index = index
        return ordered


class Step(Structure):
    """A call that has not been made: a *partial*. Nothing runs until a structure with it does."""

    def __init__(
        self, socket: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None,
        options: Options = DEFAULT, session: Any = None,
    ) -> None:  # fmt: skip
        self.socket = socket
        self.session = session
        self.args = args
        self.kwargs = kwargs or {}
        self.options = options

    def lay(self, plan: Plan, previous: Any, depth: int) -> Any:
        return plan.add(self, previous)

    def __repr__(self) -> str:
        own = [repr(value) for value in self.args] + [
            f"{name}={value!r}" for name, value in self.kwargs.items()
        ]
        return f"{self.socket}({', '.join(own)})"


class Pipeline(Structure):
    def __init__(self, steps: Iterable[Any], options: Options = DEFAULT) -> None:
        self.steps = members(steps, "pipeline")
        self.options = options
        if not self.steps:
            raise FlowError(
                "a pipeline needs at least one step", where="pipeline([])", fix="give it a list of steps"
            )

    def lay(self, plan: Plan, previous: Any, depth: int) -> Any:
        for step in self.steps:
            previous = descend(step, plan, previous, depth)
        return previous

    def __repr__(self) -> str:
        return f"pipeline({self.steps!r})"


class Parallel(Structure):
    def __init__(self, branches: Iterable[Any], options: Options = DEFAULT) -> None:
        self.branches = members(branches, "parallel")
        self.options = options

    def lay(self, plan: Plan, previous: Any, depth: int) -> Any:
        return [descend(branch, plan, previous, depth) for branch in self.branches]

    def __repr__(self) -> str:
        return f"parallel({self.branches!r})"


class Funnel(Structure):
    def __init__(self, branches: Iterable[Any], final: Any = None, options: Options = DEFAULT) -> None:
        self.branches = members(branches, "funnel")
        self.final = None if final is None else member(final, "the final step of a funnel")
        self.options = options

    def lay(self, plan: Plan, previous: Any, depth: int) -> Any:
        if self.final is None:
            raise FlowError(
                "a funnel has no final step", where=repr(self)[:200],
                fix="give it one: funnel([a, b], c) or funnel([a, b])(c)",
            )  # fmt: skip
        results = [descend(branch, plan, previous, depth) for branch in self.branches]
        return descend(self.final, plan, results, depth)

    def __call__(self, final: Any = None, *, wait: bool = True, **options: Any) -> Job:
        """Submit it, with its final step if that was not given before."""
        if final is None:
            return super().__call__(wait=wait, **options)
        if self.final is not None:
            raise FlowError(
                "this funnel has a final step already", where=repr(self)[:200],
                fix="give it once: funnel([a, b], c)() or funnel([a, b])(c)",
            )  # fmt: skip
        return Funnel(self.branches, final, self.options)(wait=wait, **options)

    def __repr__(self) -> str:
        return f"funnel({self.branches!r}, {self.final!r})"


class Segment(Structure):
    def __init__(
        self, make: Callable[..., Structure], items: Iterable[Any], size: int, options: Options = DEFAULT
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise FlowError(
                f"a segment cannot have {size!r} items", where="segment", fix="give a number from 1 up"
            )
        self.steps = [make(*item) if isinstance(item, tuple) else make(item) for item in items]
        self.size = size
        self.options = options

    def lay(self, plan: Plan, previous: Any, depth: int) -> Any:
        laid = [descend(step, plan, previous, depth) for step in self.steps]
        return [laid[i : i + self.size] for i in range(0, len(laid), self.size)]


def plan_of(structure: Structure) -> tuple[list[Task], Any, Any]:
    """The tasks of a structure by index, the template of its result (tasks in nested lists), and its session.

    Raises
    ------
    FlowError
        A member is not a step, a funnel has no end, a pipeline is empty, or the nesting is too deep.
    """
    plan = Plan()
    template = structure.lay(plan, _NOTHING, 0)
    return plan.number(), template, plan.session


def batches_of(
    tasks: Sequence[Task], sizes: Sequence[int], tasks_max: int, bytes_goal: int
) -> list[tuple[int, int]]:
    """Cut tasks into batches [lo, hi): consecutive ones of the same socket and options, up to a size."""
    batches: list[tuple[int, int]] = []
    lo = size = 0
    for i, task in enumerate(tasks):
        first = tasks[lo]
        same = task.socket == first.socket and task.options is first.options
        if i > lo and not (same and i - lo < tasks_max and size + sizes[i] <= bytes_goal):
            batches.append((lo, i))
            lo, size = i, 0
        size += sizes[i]
    if tasks:
        batches.append((lo, len(tasks)))
    return batches


def members(items: Iterable[Any], of: str) -> list[Structure]:
    if isinstance(items, (Structure, str, bytes, dict)) or not isinstance(items, Iterable):
        raise FlowError(f"{of} needs a list of steps, not {items!r:.100}", where=of, fix=f"{of}([a, b, c])")
    return [member(item, f"item {i} of {of}") for i, item in enumerate(items)]


def member(item: Any, where: str) -> Structure:
    if isinstance(item, Structure):
        return item
    if callable(getattr(item, "p", None)):
        return item.p()  # type: ignore[no-any-return]
    raise FlowError(
        f"{item!r:.100} is not a step", where=where,
        fix="make steps with socket.p(...) or functions(...); calling a Socket runs it at once",
    )  # fmt: skip


def descend(structure: Structure, plan: Plan, previous: Any, depth: int) -> Any:
    """Lay a structure that is part of another."""
    if depth >= DEPTH_MAX:
        raise FlowError(
            f"structures are nested deeper than {DEPTH_MAX} levels, or one contains itself",
            where=type(structure).__name__.lower(), fix="name the result of a part as a step of its own",
        )  # fmt: skip
    if structure.options.on_failure and not isinstance(structure, Step):
        raise FlowError(
            "on_failure is for a whole flow, not for a part of it", where=repr(structure)[:200],
            fix="give it to the outermost structure",
        )  # fmt: skip
    return structure.lay(plan, previous, depth + 1)


def _level(value: Any) -> int:
    """The highest level among the tasks in a previous result, -1 where there is none."""
    if type(value) is Task:
        return value.level
    if type(value) is list:
        return max(map(_level, value), default=-1)
    return -1
