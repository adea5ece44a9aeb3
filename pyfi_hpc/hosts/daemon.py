"""What all hosts share: their command line, their log."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from pyfi_hpc import settings as settings_module
from pyfi_hpc.settings import Settings, private_folder


def arguments(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m pyfi_hpc.hosts.{name}")
    parser.add_argument("--instance", help="name of the instance")
    parser.add_argument("--home", help="folder of all state (PYFI_HOME)")
    return parser


def load(options: argparse.Namespace) -> Settings:
    given = {name: getattr(options, name, None) for name in ("instance", "home", "bind", "ledger")}
    settings = settings_module.load(**given)
    private_folder(settings.instance_dir)
    return settings


def start_log(settings: Settings, name: str) -> Path:
    """Log to ``logs/NAME.log``, one line an entry: time, level, host, text."""
    private_folder(settings.log_dir)
    file = settings.log_dir / f"{name}.log"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    logging.basicConfig(
        stream=os.fdopen(descriptor, "w", buffering=1),
        level=settings.log_level.upper(),
        format="%(asctime)s.%(msecs)03d %(levelname).1s %(name)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    return file


def fail(error: Exception, code: int) -> None:
    """Say why the host cannot run, to the log and to whoever started it, and end."""
    logging.getLogger("pyfi_hpc").error("%s", error)
    print(error, file=sys.stderr)
    sys.exit(code)
