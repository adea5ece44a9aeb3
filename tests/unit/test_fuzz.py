"""Whatever is said at a port is a message, or refused; and whatever a peer says, the machine that hears it lives on."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lone_broker import LoneBroker
from messages_fuzz import messages

from pyfi_hpc.core.agent import BROKER, Agent
from pyfi_hpc.errors import RemoteProtocolError
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.events import CodeChecked, Received
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.wire import codec

_PORTS = {
    "broker": (codec.TO_BROKER, m.FromClient | m.FromAgent), "client": (codec.TO_CLIENT, m.ToClient),
    "agent": (codec.TO_AGENT, m.ToAgent), "agent of rank": (codec.FROM_RANK, m.FromRank),
    "rank": (codec.TO_RANK, m.ToRank),
}  # fmt: skip
_SECONDS = st.sampled_from([0.0, 0.01, 1.0, 30.0])


@pytest.mark.parametrize("port", _PORTS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_bytes_are_messages_or_refused(port: str, data: Any) -> None:
    """Random bytes, and valid frames of which some bytes are changed, cut off or added."""
    decoder, kinds = _PORTS[port]
    frame = bytearray(codec.encode(data.draw(st.lists(messages(kinds), max_size=3))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame)))
        frame[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    for raw in (bytes(frame), data.draw(st.binary(max_size=60))):
        with suppress(RemoteProtocolError):
            assert isinstance(codec.decode(raw, decoder), list)


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not there for this Python or processor")
def test_atheris_finds_no_bytes_that_a_decoder_does_not_stand() -> None:
    """Inputs that reach new places in our code, 30,000 of them; more by hand: see the program."""
    program = Path(__file__).parent.parent / "fuzz_decoders.py"
    command = [sys.executable, str(program), "-atheris_runs=30000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 30000" in done.stderr


def _as_heard(message: Any, decoder: msgspec.msgpack.Decoder[Any]) -> list[Any]:
    """As it comes out of the port: nothing, if the port refuses it."""
    try:
        return codec.decode(codec.encode([message]), decoder)
    except RemoteProtocolError:
        return []



@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["c1", "c2"]), messages(m.FromClient), _SECONDS)
        | st.tuples(st.sampled_from(["n1", "n2", "n9"]), messages(m.FromAgent), _SECONDS),
        max_size=12,
    )
)
def test_the_broker_outlives_what_clients_and_agents_say(said: list[tuple[str, Any, float]]) -> None:
    """A job runs on n1; any messages come, some after a while; then an honest client and node are served."""
    broker = LoneBroker(Limits())
    broker.node("n1")
    broker.submit(3)
    for peer, message, seconds in said:
        for heard in _as_heard(message, codec.TO_BROKER):
            broker.say(peer, heard)
        broker.wait(seconds)
    if not broker.machine.stopped and broker.machine._stopping is None:
        broker.wait(Limits().lease_s + 0.1)
        broker.node("n7")
        broker.client()
        before = len(broker.records)
        key = b"an honest client"
        broker.say("c1", m.Submit(key, 0, 0, 1, True, "sample.work", offsets_of([b"x"]), b"x"))
        assert len(broker.records) > before


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["r0", "r1", "r9"]), messages(m.FromRank), _SECONDS), max_size=12))
def test_an_agent_outlives_what_ranks_say(said: list[tuple[str, Any, float]]) -> None:
    """Two ranks have tasks; any messages come from them and from strangers."""
    limits = Limits()
    agent = Agent(limits, "n1", "1", "", 2, 4, True, 0.0)
    now = 0.0

    def tell(event: Any) -> None:
        out = Effects()
        agent.handle(event, now, out)
        agent.advance(now, out)

    for number in (0, 1):
        tell(Received(Peer(b"r%d" % number), "rank", "", m.RankReady(number, 2, 100 + number, number)))
    mount = m.Mount(1, "repository", "commit", "sample", "environment", "python", "workdir")
    for message in (m.Welcome(1, 1, 1 << 20, limits.heartbeat_s, limits.lease_s), mount):
        tell(Received(BROKER, "broker", "", message))
    tell(CodeChecked(1, ""))
    item = m.Item(1, 1, 1, 0, 0, 6, 1, 1, "work", 0.0, offsets_of([b"x"] * 6), b"x" * 6)
    tell(Received(BROKER, "broker", "", m.Grant(1, [item])))
    for peer, message, seconds in said:
        for heard in _as_heard(message, codec.FROM_RANK):
            tell(Received(Peer(peer.encode()), "rank", "", heard))
        now += min(seconds, 1.0)
        tell(Received(BROKER, "broker", "", m.Beat(1)))
