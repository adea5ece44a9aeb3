"""A running load in whose middle a fault happens, and views of an instance through a faulty wire."""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from instance_fixture import Instance, until
from invariants import check
from slurm_site import Site
from wire import Wire

from pyfi_hpc.adapters import access as access_file
from pyfi_hpc.client.executor import Executor
from pyfi_hpc.client.session import Session

#: a load ends within so long once its fault is healed, seconds
WAIT_S = 60.0
#: calls of a load that may run again for each rank that is lost: the one that runs, and the one before it, whose end
#: nobody else knew yet. Behind a short call the next one is at the rank, and begins at once
LOST = 2


class Load:
    """A map of short calls that is read in a thread; each call notes in a file that it ran.

    Parameters
    ----------
    count, seconds
        So many calls of so long: by default about two seconds on two ranks.
    """

    def __init__(
        self, box: Instance | Site, folder: Path, count: int = 200, seconds: float = 0.02,
        session: Session | None = None,
    ) -> None:  # fmt: skip
        self._box, self._file, self.count = box, folder / "ran", count
        self.session = session or box.session
        self.got: list[Any] = []
        self.error: BaseException | None = None
        self._results = Executor(session=self.session).map(
            "trouble.note", [str(folder)] * count, range(count), [seconds] * count
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        self.reached(count // 10)

    def _read(self) -> None:
        try:
            for value in self._results:
                self.got.append(value)
        except BaseException as error:
            self.error = error

    def reached(self, count: int, limit_s: float = WAIT_S) -> None:
        """Wait until the client has so many results."""
        until(lambda: len(self.got) >= count or self.error, limit_s, f"{count} results, not {len(self.got)}")
        assert self.error is None, repr(self.error)

    def ends_well(self, again_max: int) -> None:
        """All results in order, at most so many calls ran more than once, and every rule of the ledger holds."""
        self.reached(self.count)
        self._thread.join(10)
        assert self.got == [x * x for x in range(self.count)]
        ran = Counter(self._file.read_text().split())
        assert set(ran) == set(map(str, range(self.count)))
        again = sum(n - 1 for n in ran.values())
        assert again <= again_max, {x: n for x, n in ran.items() if n > 1}
        check(self._box, {self._results.id: self.got})


def read(results: Iterable[Any]) -> tuple[list[Any], threading.Thread]:
    """Read results in a thread; the list grows as they come."""
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.extend(results), daemon=True)
    reader.start()
    return got, reader


@contextmanager
def wired(box: Instance, name: str) -> Iterator[tuple[Wire, Instance]]:
    """A faulty wire to the broker, and the instance as it looks from its other end.

    What is started or connected by the second one goes through the wire; it is a node of its own name.
    """
    access = access_file.read(box.settings)
    wire = Wire(access.host, access.port)
    home = box.settings.home / f"far-{name}"
    shutil.rmtree(home, ignore_errors=True)
    far = Instance(home, box.settings.instance)
    far._mark = box._mark
    for folder in (home, far.settings.instance_dir):
        folder.mkdir(mode=0o700)
    access_file.write(far.settings, msgspec.structs.replace(access, host="127.0.0.1", port=wire.port))
    before = os.environ.get("SLURMD_NODENAME")
    os.environ["SLURMD_NODENAME"] = name
    try:
        yield wire, far
    finally:
        if before is None:
            del os.environ["SLURMD_NODENAME"]
        wire.heal()
        for session in far._sessions:
            session.close()
        wire.close()
        shutil.rmtree(home, ignore_errors=True)


def heal(box: Instance, ranks: int) -> None:
    """Wait until all ranks are there again, and see that they serve."""
    until(lambda: sum(node["ranks"] for node in box.nodes()) >= ranks, 30.0, f"{ranks} ranks: {box.nodes()}")
    assert list(box.executor().map("trouble.same", range(20), timeout=30)) == list(range(20))
