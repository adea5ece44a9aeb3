"""The log of a host: what hangs below it does not hold up who logs."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from pyfi_hpc.hosts.daemon import LogFile


def test_a_file_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    """A pipe that nobody reads: thousands of lines are logged, those beyond the limit counted, the rest comes later."""
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    handler = LogFile(tmp_path / "log", lines_max=10)
    for number in range(500):
        handler.emit(logging.makeLogRecord({"msg": f"{number:05} " + "x" * 1000}))
    os.set_blocking(reader, True)
    said = b""
    while b"left out" not in said:
        handler.emit(logging.makeLogRecord({"msg": "after"}))
        said += os.read(reader, 1 << 16)
    handler.close()
    while more := os.read(reader, 1 << 16):
        said += more
    os.close(reader)
    assert said.startswith(b"00000 ")
    assert said.endswith(b"\n")


def test_lines_are_written_at_the_end(tmp_path: Path) -> None:
    """What was logged last is in the file when the handler is closed."""
    handler = LogFile(tmp_path / "log")
    for number in range(100):
        handler.emit(logging.makeLogRecord({"msg": str(number)}))
    handler.close()
    assert (tmp_path / "log").read_text().split() == [str(number) for number in range(100)]
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
