"""The agent's machine and a rank that reports what cannot be: the rank is replaced, its task runs elsewhere."""

from __future__ import annotations

import struct

import pytest

from pyfi_hpc.core.agent import BROKER, Agent
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import Effects, KillProcess
from pyfi_hpc.model.events import CodeChecked, Received
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.limits import PROTOCOL_VERSION, Limits
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.model.states import Cause

_ONE = offsets_of([b"x"])
LIES = {
    "beyond the batch": m.Outcome(9, 1, 4, 90, 1, 0, bytes(90), bytes(720), bytes(360), offsets_of([b""] * 90), b""),
    "before it": m.Outcome(9, 1, 0, 1, 1, 0, b"\0", bytes(8), bytes(4), _ONE, b"x"),
    "of another grant": m.Outcome(8, 1, 4, 1, 1, 0, b"\0", bytes(8), bytes(4), _ONE, b"x"),
    "no tasks": m.Outcome(9, 1, 4, 0, 1, 0, b"", b"", b"", struct.pack("<I", 0), b""),
    "too few causes": m.Outcome(9, 1, 4, 2, 1, 0, b"\0", bytes(16), bytes(8), offsets_of([b"", b""]), b""),
    "odd durations": m.Outcome(9, 1, 4, 1, 1, 0, b"\0", bytes(8), b"\1\2\3", _ONE, b"x"),
    "no offsets": m.Outcome(9, 1, 4, 1, 1, 0, b"\0", bytes(8), bytes(4), b"", b"x"),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=list(LIES))
def test_a_rank_that_reports_what_cannot_be(lie: m.Outcome) -> None:
    """A Done that does not fit its bundle: the rank is killed, the outcome is RANK_LOST."""
    agent = Agent(Limits(), "n", "x", "", 1, 1, True, 0.0)
    rank = Peer(b"r0")

    def tell(event: object) -> Effects:
        out = Effects()
        agent.handle(event, 1.0, out)
        agent.advance(1.0, out)
        return out

    tell(Received(BROKER, "broker", "", m.Welcome(PROTOCOL_VERSION, 1, 1, 1.0, 5.0)))
    tell(Received(BROKER, "broker", "", m.Mount(3, "r", "c", "mod", "e", "python", "/w")))
    tell(CodeChecked(3, ""))
    tell(Received(rank, "rank", "", m.RankReady(0, 1, 77, -1)))
    out = tell(Received(BROKER, "broker", "", m.Grant(1, [m.Item(9, 1, 1, 4, 4, 1, 1, 3, "f", 0.0, _ONE, b"x")])))
    bundle = next(message for peer, message in out.messages if isinstance(message, m.Bundle))
    out = tell(Received(rank, "rank", "", m.Done(bundle.bundle, lie)))
    assert KillProcess(77, True) in out.actions
    told = [o for _, message in out.messages if isinstance(message, m.Finished) for o in message.outcomes]
    assert [(o.grant, o.lo, o.count, list(o.causes)) for o in told] == [(9, 4, 1, [Cause.RANK_LOST])]
