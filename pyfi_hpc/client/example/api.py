"""The functions of ``examples/sample``: deploy it with ``pyfi deploy examples/sample`` first.

    from pyfi_hpc.client.example.api import do_something_p as do_something, do_this_p as do_this

``do_something(...)`` waits for the value; ``do_something_p(...)`` is a step for ``pipeline`` and its kin.
"""

from __future__ import annotations

from typing import Any

from pyfi_hpc.client.objects import functions

_SAMPLE = "pyfi.processors.sample"

do_something_p, do_this_p = functions(f"{_SAMPLE}.do_something", f"{_SAMPLE}.do_this")


def do_something(*args: Any, **kwargs: Any) -> Any:
    """Call it and wait for the value."""
    return do_something_p.delay(*args, **kwargs).result()


def do_this(*args: Any, **kwargs: Any) -> Any:
    """Call it and wait for the value."""
    return do_this_p.delay(*args, **kwargs).result()
