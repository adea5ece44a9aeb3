"""Run by an environment's own python: import a module and list its public functions (standard library only).

``python -I list_functions.py WORKDIR MODULE`` writes one JSON object to standard output; what the module
prints while it is imported goes to standard error.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import traceback
import types
from typing import Any


def main(workdir: str, module_name: str) -> int:
    """List the functions of a module; 0 also when the import failed: the answer tells."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.path.insert(0, workdir)
    # what a runner gives to user code; here no task runs
    task: Any = types.ModuleType("pyfi_task")
    task.Task, task.task, task.current, task.Continue = object, None, lambda: None, object
    task.remaining, task.on_end = lambda: float("inf"), lambda callback, before_s=30.0: None
    task.step, task.hosts = lambda argv, **options: None, list
    sys.modules["pyfi_task"] = task
    try:
        module = importlib.import_module(module_name)
        found: dict[str, Any] = {"functions": functions_of(module)}
    except BaseException as error:  # SystemExit too: a script without a main guard
        found = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc(limit=-6)}
        if isinstance(error, ModuleNotFoundError):
            found["missing"] = error.name
    with answer:
        json.dump(found, answer)
    return 0


def functions_of(module: Any) -> dict[str, list[str]]:
    """Public functions that the module itself defines, in the order of its text, with their parameters."""
    return {name: _parameters(value) for name, value in vars(module).items() if _is_own(module, name, value)}


def _is_own(module: Any, name: str, value: Any) -> bool:
    # A decorated function (a cache, a wrapper) keeps __module__ and __wrapped__; a class is no function.
    if name.startswith("_") or inspect.isclass(value) or not callable(value):
        return False
    return getattr(value, "__module__", None) == module.__name__ and inspect.isfunction(inspect.unwrap(value))


def _parameters(function: Any) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [stars.get(parameter.kind, "") + parameter.name for parameter in parameters]


if __name__ == "__main__":
    # os._exit: what the module started at import must not keep this look alive.
    code = main(*sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)
