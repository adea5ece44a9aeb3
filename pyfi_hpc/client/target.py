"""What is called: the name of a socket for whatever a caller may hand over."""

from __future__ import annotations

import types
from typing import Any

from pyfi_hpc.errors import UnknownSocket, UsageError

_DEPLOY = (
    "put the function into a module of a git repository, run `pyfi deploy PATH`, and call it by its socket's "
    "name or as the imported function"
)


def socket_name(target: Any) -> str:
    """A socket's name, or ``module:function`` of deployed code.

    Parameters
    ----------
    target
        A socket's name, anything with ``socket_name`` (Socket, a function of ``functions``), or a plain
        function at the top level of an importable module: looked up among what is deployed, never sent.

    Raises
    ------
    UnknownSocket
        A function that no deployment can contain: of ``__main__``, a lambda, a method, or inside a function.
    UsageError
        Not callable and not a name.
    """
    if type(target) is str:
        if not target or target != target.strip():
            raise UsageError(
                f"{target!r} is not a socket's name", fix="`pyfi ls sockets` lists what there is"
            )
        return target
    name = getattr(target, "socket_name", None)
    if type(name) is str:
        return name
    if isinstance(target, types.FunctionType):
        return _function_name(target)
    if callable(target):
        what = (
            "a method"
            if isinstance(target, types.MethodType)
            else f"an object of type {type(target).__name__}"
        )
        raise UnknownSocket(f"{what} cannot be called remotely", where=repr(target)[:120], fix=_DEPLOY)
    raise UsageError(
        f"{target!r} is neither a socket nor a function", fix="`pyfi ls sockets` lists what there is"
    )


def _function_name(function: types.FunctionType) -> str:
    module, name = function.__module__, function.__qualname__
    if name == "<lambda>":
        what = "a lambda has no name under which it could be deployed"
    elif "<locals>" in name:
        what = f"{function.__name__} is defined inside another function"
    elif "." in name:
        what = f"{name} is a method"
    elif module in ("__main__", "__mp_main__", None):
        what = f"{name} is defined in the script itself (__main__)"
    else:
        return f"{module}:{name}"
    raise UnknownSocket(what, where=f"{module}.{name}", fix=_DEPLOY)
