"""E on real links: hosts are network namespaces whose cables are down, go one way, are slow or gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import hosts
import psutil
import pytest
from hosts import Lan
from instance_fixture import Instance, until
from invariants import Stopwatch, check, check_replay
from ledger_fixture import administer
from load import Load, read

from pyfi_hpc.ledger import embedded
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.states import Cause

#: ranks by host; the empty name is this computer, which takes what the others lose
RANKS = {"": 4, "short": 1, "cut": 2, "mute": 1, "deaf": 1, "gone": 1}


#: For less, nothing is retried. TCP sends again 0.2 to 1.4 s after a loss, then after 1.8 and 2.6 s, and the last word
#: heard may be a second older: an outage of 2.6 s may keep an agent deaf for 4 s, and then it ends what it runs.
_SHORT_S = 2.0


class Yard:
    """An instance whose broker and one agent are here, and an agent on each host.

    Attributes
    ----------
    box, lan
    """

    def __init__(self, home: Path) -> None:
        self.lan = Lan()
        self.box = Instance(home, "yard", bind=self.lan.address)

    def up(self) -> Yard:
        with hosts.named("here"):
            self.box.up(RANKS[""])
        for name, ranks in RANKS.items():
            if name:
                self.lan.add(name).start_agent(self.box, ranks)
        self.wait_whole()
        return self

    def wait_whole(self) -> None:
        until(lambda: self.ranks() == sum(RANKS.values()), 40.0, f"all ranks have joined: {self.box.nodes()}")

    def ranks(self) -> int:
        return sum(node["ranks"] for node in self.box.nodes())

    def names(self) -> set[str]:
        return {node["name"] for node in self.box.nodes()}

    def failed(self, job: int) -> set[tuple[int, str, Cause]]:
        """(index, node, cause) of attempts that did not count."""
        query = "SELECT lo, node, cause FROM attempt_failed WHERE job = %s"
        rows = administer(embedded.connect_url(self.box.settings), query, job)
        return {(int(str(lo)), str(node), Cause(cause)) for lo, node, cause in rows}  # type: ignore[arg-type]

    def down(self) -> None:
        try:
            self.box.down()
        finally:
            self.lan.close()


@pytest.fixture(scope="module")
def yard(test_home: Path) -> Iterator[Yard]:
    """Ten ranks on six hosts, started once."""
    if lacks := hosts.missing():
        pytest.skip("hosts of their own need " + ", ".join(lacks))
    made = Yard(test_home)
    try:
        yield made.up()
        check_replay(made.box)
    finally:
        made.down()


@dataclass(order=True)
class Run:
    """One run of a call of ``trouble.trace``: when it was alive, and where."""

    began: float
    last: float
    host: str
    attempt: int


class Traces:
    """What calls of ``trouble.trace`` wrote."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self._lan, self._folder = lan, folder

    def runs(self) -> dict[int, list[Run]]:
        """Of each call, in the order in which they began."""
        found: dict[int, list[Run]] = {}
        for file in self._folder.glob("*.*.*"):
            x, attempt, inode = map(int, file.name.split("."))
            marks = file.read_text().split("\n")[:-1]  # the last line may be cut off
            if marks:
                run = Run(float(marks[0]), float(marks[-1]), self._lan.name_of(inode), attempt)
                found.setdefault(x, []).append(run)
        return {x: sorted(runs) for x, runs in found.items()}

    def again(self) -> set[int]:
        """Calls that were run more than once."""
        return {x for x, runs in self.runs().items() if len(runs) > 1}

    def end(self, *xs: int) -> None:
        for x in xs:
            (self._folder / f"end-{x}").touch()


@pytest.fixture
def links() -> Iterator[ExitStack]:
    """What repairs links, also when a test fails in between."""
    with ExitStack() as stack:
        yield stack


def test_e1_e2_e3_e5_links_fail_under_running_calls(yard: Yard, links: ExitStack, tmp_path: Path) -> None:
    """C4 too. At one moment a link is down for 2 s, one past the lease, two go one way, and one is gone for good.

    The first retries nothing. Of the others every call goes on elsewhere, and what ran on a host that was cut off had
    been ended there by then: its last trace is before the first of the next run. A result that comes late is STALE.
    """
    box, lan = yard.box, yard.lan
    broker = psutil.Process(box.pid("broker"))
    descriptors = broker.num_fds()
    count = sum(RANKS.values())
    traces = Traces(lan, tmp_path)
    results = box.executor().map("trouble.trace", [str(tmp_path)] * count, range(count))
    until(lambda: len(traces.runs()) == count, 30.0, "a call on each rank")
    until(lambda: sum(node["running"] for node in box.nodes()) == count, 5.0, "a beat has told of each")
    where = {x: runs[0].host for x, runs in traces.runs().items()}
    on = {name: [x for x, host in where.items() if host == name] for name in RANKS}
    assert {name: len(xs) for name, xs in on.items()} == RANKS
    late, fenced = on["cut"]
    short, cut, mute, deaf, gone = (lan.hosts[name] for name in ("short", "cut", "mute", "deaf", "gone"))

    begun, watch = time.monotonic(), Stopwatch()
    for fault in (short.down, cut.down, mute.mute, deaf.deafen, gone.unplug):
        fault()
    links.callback(lambda: [repair() for repair in (cut.up, mute.speak, deaf.hear, gone.plug_in)])
    until(lambda: time.monotonic() > begun + 1.0, 2.0, "a second has gone")
    traces.end(late, *on[""])  # its outcome cannot be told; and there is room for what the others lose
    until(lambda: time.monotonic() > begun + _SHORT_S, 3.0, "the short one is over")
    short.up()
    moved = {late, fenced, *on["mute"], *on["deaf"], *on["gone"]}
    until(lambda: yard.names() == {"here", "short"}, 10.0, "four hosts are given up")
    watch.tell("silent hosts noticed", 5)
    until(lambda: moved <= traces.again(), 10.0, "their calls run again")
    assert traces.again() == moved, f"no others: {[where[x] for x in traces.again() - moved]}"
    watch.tell("their calls run elsewhere", 8)

    links.close()
    traces.end(*range(count))
    got = list(results)
    yard.wait_whole()
    watch.tell("all hosts are back", 20)

    runs = traces.runs()
    assert got == [[x, runs[x][-1].attempt] for x in range(count)]
    assert traces.again() == moved
    for x in moved:
        first, second = runs[x]
        assert first.last < second.began, (x, where[x], first.last - begun, second.began - begun)
        assert second.host == ""
        if x != late:  # by itself: nobody could reach it, and its lease had not run out
            assert begun + 2.0 < first.last < begun + Limits().lease_s, (x, where[x], first.last - begun)
    # one that is heard, and hears nothing, can still hand back what it ends: no attempt was lost there
    failed = yard.failed(results.id)
    lost = {(x, where[x], Cause.NODE_FAIL) for x in moved if where[x] != "deaf"}
    assert lost <= failed, f"missing {lost - failed} of {failed}; {runs}"
    assert {node for _, node, _ in failed} <= {"cut", "mute", "deaf", "gone"}
    until(lambda: (late, "cut", Cause.STALE) in yard.failed(results.id), 10.0, "the late result is noted as STALE")
    until(lambda: broker.num_fds() <= descriptors + 2, 20.0, f"{descriptors} descriptors before, {broker.num_fds()}")
    check(box, {results.id: got})
    (tmp_path / "after").mkdir()
    Load(box, tmp_path / "after", count=100).ends_well(again_max=0)


def test_e4_slow_links(yard: Yard, tmp_path: Path) -> None:
    """One megabit a second both ways to every host, with queues that overflow: slower, and nobody is taken for dead."""
    box = yard.box
    names = yard.names()
    for host in yard.lan.hosts.values():
        host.slow()
    watch = Stopwatch()
    try:
        values = [bytes([x % 251]) * 4000 for x in range(400)]
        results = box.executor().map("trouble.wait", [0.05] * 400, values, timeout=60)
        got, reader = read(results)
        leases = [node["lease_s"] for node in box.nodes()]
        while reader.is_alive():
            leases += (node["lease_s"] for node in box.nodes())
            assert yard.names() == names
        assert got == values
    finally:
        for host in yard.lan.hosts.values():
            host.fast()
    watch.tell(f"1.6 MB there and back, the nearest to its lease's end had {min(leases)} s", 0)
    assert yard.failed(results.id) == set()
    used = {call["node"] for call in box.ask("calls", job=results.id, limit=1000)["rows"]}
    assert used == {"here", *yard.lan.hosts}
    check(box, {results.id: values})
