"""Errors for people: what, where, how to fix, and the exit code. The table in ``main`` lists the codes."""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import IO, Any

import click

from pyfi_hpc.errors import PyfiError

#: everything else of ours carries its own (errors.py)
USAGE, INTERRUPTED, TOO_LATE = 2, 130, 124


def tell(error: BaseException, as_json: bool, debug: bool) -> int:
    """Write an error to standard error; the exit code that it stands for."""
    if isinstance(error, click.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    if debug:
        traceback.print_exception(error)
    told, code = _parts(error)
    if as_json:
        print(json.dumps({"version": 1, "error": told}), file=sys.stderr)
    else:
        for name, text in (("error", told["what"]), ("where", told["where"]), ("fix", told["fix"])):
            if text:
                print(f"{_label(name, sys.stderr)} {text}", file=sys.stderr)
    return code


def coloured(stream: IO[Any]) -> bool:
    """Whether colours are wanted there: a terminal that knows them, and nobody said NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def _parts(error: BaseException) -> tuple[dict[str, str], int]:
    if isinstance(error, PyfiError):
        return {
            "code": error.code,
            "what": error.what,
            "where": error.where,
            "fix": error.fix,
        }, error.exit_code
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else ""
        fix = f"`{where} --help` shows how it is used" if where else ""
        return {"code": "usage_error", "what": error.format_message(), "where": where, "fix": fix}, USAGE
    if isinstance(error, click.ClickException):
        return {"code": "usage_error", "what": error.format_message(), "where": "", "fix": ""}, USAGE
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    where = "" if isinstance(error, OSError) else "inside pyfi_hpc"
    fix = "" if isinstance(error, OSError) else "`pyfi --debug ...` shows the traceback; please report it"
    return {"code": "internal", "what": what, "where": where, "fix": fix}, 1


def _label(name: str, stream: IO[Any]) -> str:
    label = f"{name}:"
    return click.style(label, fg="red" if name == "error" else None, bold=True) if coloured(stream) else label
