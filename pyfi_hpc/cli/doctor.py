"""``pyfi doctor``: what this machine has and lacks, a line each."""

from __future__ import annotations

import sys

import click

from pyfi_hpc.cli.context import Context, pass_context, reads
from pyfi_hpc.cli.failure import coloured
from pyfi_hpc.cli.output import print_json
from pyfi_hpc.errors import SiteError

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@reads
@pass_context
def doctor(context: Context) -> None:
    """Check what this machine has and lacks: exit 6 if something that is needed is missing."""
    from pyfi_hpc.cli.checks import CHECKS, FAIL

    found = []
    for check in CHECKS:
        for finding in check(context.settings):
            found.append(finding)
            if not context.json:
                fix = f"   fix: {finding.fix}" if finding.fix else ""
                click.echo(f"{_mark(finding.state)}  {finding.text}{fix}")
                sys.stdout.flush()
    if context.json:
        print_json({"checks": [{"state": f.state, "text": f.text, "fix": f.fix} for f in found]})
    if any(finding.state == FAIL for finding in found):
        raise SystemExit(SiteError.exit_code)


def _mark(state: str) -> str:
    return click.style(f"{state:4}", fg=_COLOURS[state], bold=True) if coloured(sys.stdout) else f"{state:4}"
