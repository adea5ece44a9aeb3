"""What a run ends with when a promise does not hold."""

from __future__ import annotations


class Violation(AssertionError):
    """A promise is broken.

    Attributes
    ----------
    task : (job, index) or None
        The task that it is about, where it is about one.
    """

    def __init__(self, text: str, task: tuple[int, int] | None = None) -> None:
        super().__init__(f"task {task[0]}.{task[1]}: {text}" if task else text)
        self.task = task


def expect(holds: bool, text: str, task: tuple[int, int] | None = None) -> None:
    if not holds:
        raise Violation(text, task)
