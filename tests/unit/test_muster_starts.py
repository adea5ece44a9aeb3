"""The muster of a node's ranks as a story: ranks die, their replacements fail."""

from __future__ import annotations

from pyfi_hpc.core.held import Holdings
from pyfi_hpc.core.muster import Muster
from pyfi_hpc.core.ranks import RankTable
from pyfi_hpc.model.effects import Effects, ReplaceRank
from pyfi_hpc.model.events import ProcessExited
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.messages import RankReady


def test_a_replacement_that_cannot_be_started_is_asked_for_again() -> None:
    """No process number is left: asked for again after two seconds, not after the minute a start may take."""
    muster = Muster(Limits(), RankTable(0.008), Holdings(1 << 20), 2, True, 0.0)
    for number in (0, 1):
        muster.ready(Peer(b"%d" % number), RankReady(number, 2, 100 + number, number), 1.0, Effects())

    def asked(now: float) -> list[object]:
        out = Effects()
        for rank in muster.ranks.values():
            rank.heard_at = now
        muster.watch(now, out)
        return list(out.actions)

    muster.exited(ProcessExited(101, "signal 9"), 2.0)
    assert asked(2.1) == []
    assert asked(2.4) == [ReplaceRank(1, 1)]
    muster.exited(ProcessExited(0, "no process left", 1), 2.4)
    assert asked(4.0) == []
    assert muster.wake_at() < 5.0
    assert asked(5.0) == [ReplaceRank(1, 1)]
    assert asked(7.0) == [], "one is under way"
    muster.ready(Peer(b"new"), RankReady(1, 2, 102, 1), 7.0, Effects())
    assert asked(70.0) == []
