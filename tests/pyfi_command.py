"""The command ``pyfi`` for tests: with a home, a scratch folder and an instance of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pyfi_hpc import settings as settings_module
from pyfi_hpc.ledger import place

ROOT = Path(__file__).resolve().parents[1]
#: no command of the tests takes so long, in seconds
LIMIT_S = 60.0


@dataclass
class Pyfi:
    """Runs ``pyfi`` with a home, a scratch folder and an instance of its own."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYFI_")}
        self.environment = {
            **clean,
            "PYFI_HOME": str(self.home / "home"),
            "PYFI_SCRATCH": str(self.home / "s"),
            "PYFI_INSTANCE": "cli",
            "PYTHONPATH": str(ROOT),
            "TZ": "UTC",
        }
        (self.home / "s").mkdir()

    def __call__(self, *arguments: str, data: str = "", code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run one command; it must end with ``code`` unless that is None."""
        done = subprocess.run(
            [sys.executable, "-m", "pyfi_hpc.cli.main", *arguments], input=data, capture_output=True, text=True,
            env=self.environment, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        assert code is None or done.returncode == code, f"{done.returncode}: {done.stdout}\n{done.stderr}"
        return done

    def shell(self, line: str, code: int = 0) -> str:
        """Run a line of bash in which ``pyfi`` is the command; what it printed."""
        script = f'set -o pipefail; pyfi() {{ "{sys.executable}" -m pyfi_hpc.cli.main "$@"; }}\n{line}'
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, env=self.environment, timeout=LIMIT_S, check=False
        )
        assert done.returncode == code, f"{done.returncode}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def settings(self) -> settings_module.Settings:
        return settings_module.load(home=self.home / "home", scratch=self.home / "s", instance="cli")

    def processes(self) -> dict[int, str]:
        """What belongs to this instance by its environment or, as the Postgres of root, by its folder."""
        ledger = str(place.place_of(self.settings()).base)
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = " ".join(process.cmdline())
                mine = process.environ().get("PYFI_HOME") == str(self.home / "home")
                if (mine or ledger in words) and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = words
        return found
