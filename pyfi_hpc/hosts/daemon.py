"""What all hosts share: their command line, their log."""

from __future__ import annotations

import argparse
import logging
import os
import queue
import sys
import threading
from contextlib import suppress
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
    logging.basicConfig(
        handlers=[LogFile(file)],
        level=settings.log_level.upper(),
        format="%(asctime)s.%(msecs)03d %(levelname).1s %(name)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    return file


class LogFile(logging.Handler):
    """Writes lines to a file in a thread of its own: the home of a cluster may hang, and a host must not.

    What cannot be written is kept up to ``lines_max``; then lines are left out, and how many is written. Lines are
    also written at exit, if that takes no longer than ``END_S``.
    """

    END_S = 2.0

    def __init__(self, file: Path, lines_max: int = 10_000) -> None:
        super().__init__()
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._lines: queue.Queue[str | None] = queue.Queue(lines_max)
        self._left_out = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put_nowait(self.format(record) + "\n")
        except queue.Full:
            self._left_out += 1
        except Exception:
            self.handleError(record)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            left_out, self._left_out = self._left_out, 0
            if left_out:
                line += f"[... {left_out} lines left out: the log could not be written ...]\n"
            # a full disk: there is nowhere to say it
            with suppress(OSError):
                os.write(self._file, line.encode(errors="replace"))

    def close(self) -> None:
        """At exit: wait for what is to be written, unless it hangs."""
        with suppress(queue.Full):
            self._lines.put(None, timeout=self.END_S)
            self._thread.join(self.END_S)
        if not self._thread.is_alive() and self._file >= 0:
            os.close(self._file)
            self._file = -1
        super().close()


def fail(error: Exception, code: int) -> None:
    """Say why the host cannot run, to the log and to whoever started it, and end."""
    logging.getLogger("pyfi_hpc").error("%s", error)
    print(error, file=sys.stderr)
    sys.exit(code)
