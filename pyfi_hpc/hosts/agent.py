"""The agent's host: picks adapters, builds the machine, runs the loop.

    python -m pyfi_hpc.hosts.agent --instance I [--ranks N] [--slurm | --own-code]
"""

from __future__ import annotations

import logging
import secrets
import select
import sys
import time
from collections.abc import Sequence

import zmq

from pyfi_hpc.adapters import access as access_file
from pyfi_hpc.adapters import inventory, node, pidfile
from pyfi_hpc.adapters import slurm as slurm_adapter
from pyfi_hpc.adapters.access import Access
from pyfi_hpc.adapters.clock import SystemClock
from pyfi_hpc.adapters.dealer import BROKER, DealerPort
from pyfi_hpc.adapters.node_code import NodeCode
from pyfi_hpc.adapters.processes import NodeProcesses
from pyfi_hpc.adapters.signals import SignalPort
from pyfi_hpc.adapters.surroundings import whose_steps
from pyfi_hpc.adapters.unix_line import RanksPort
from pyfi_hpc.core.agent import Agent
from pyfi_hpc.errors import BrokerUnreachable, PyfiError, Refused
from pyfi_hpc.hosts import daemon
from pyfi_hpc.loop import Loop
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.messages import Message
from pyfi_hpc.settings import Settings
from pyfi_hpc.wire import codec

log = logging.getLogger("pyfi_hpc.agent")

#: the first start of a ledger and a broker beside the agent takes at most so long, seconds
_BROKER_START_S = 120.0
#: meanwhile the access file is looked for so often, seconds
_ACCESS_LOOK_S = 0.02
#: a broker that lives has answered a beat within so long; then the access file is looked at so often, seconds
_ANSWER_S = 0.5
_LOOK_S = 0.2


class Switch:
    """Sends to the broker or to a rank; moves to a broker that came back at another address.

    It looks into the access file while there is no connection, or no answer for longer than a beat's takes: a frozen
    broker's connections stay. A look costs about 50 us. A broker with other keys is another instance, which knows
    nothing of what this agent holds.
    """

    def __init__(self, settings: Settings, public: str, broker: DealerPort, ranks: RanksPort) -> None:
        self._settings = settings
        self._public = public
        self._broker = broker
        self._ranks = ranks
        self._looked_at = 0.0

    def send(self, peer: Peer, messages: Sequence[Message]) -> bool:
        if peer != BROKER:
            return self._ranks.send(peer, messages)
        sent = self._broker.send(peer, messages)
        now, since = time.monotonic(), self._broker.waits_since
        if (not sent or (since is not None and now - since > _ANSWER_S)) and now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            self._look_again()
        return sent

    def _look_again(self) -> None:
        try:
            found = access_file.read(self._settings)
        except (PyfiError, OSError) as error:
            log.warning("cannot read the access file: %s", error)
            return
        if found.broker_public != self._public:
            raise Refused(
                "the instance was started anew with other keys", where=str(self._settings.access_file),
                fix="none is needed: this agent ends, and agents that start now have the new keys",
            )  # fmt: skip
        self._broker.move(found.endpoint)


def main() -> None:
    parser = daemon.arguments("agent")
    parser.add_argument("--ranks", type=int, help="ranks to start here; default: one per usable core")
    parser.add_argument("--slurm", action="store_true", help="the batch script starts the ranks")
    parser.add_argument("--await-broker", action="store_true", help="the broker is being started beside this")
    parser.add_argument("--own-code", action="store_true", help="this node does not see the home: prepare code here")
    options = parser.parse_args()
    settings = daemon.load(options)
    daemon.start_log(settings, f"agent-{node.name()}")
    try:
        patience_s = _BROKER_START_S if options.await_broker or node.allocation() else 0.0
        ranks = options.ranks or _expected(options.slurm)
        run(settings, ranks, not options.slurm, patience_s, options.own_code)
    except PyfiError as error:
        daemon.fail(error, error.exit_code)
    except Exception:
        log.exception("this is a bug; the ledger makes it safe to end here")
        raise


def _expected(slurm: bool) -> int:
    here = slurm_adapter.environment() if slurm else None
    return here.ranks_per_node if here and here.ranks_per_node else len(node.usable_cores())


def _wait_for_access(settings: Settings, signals: SignalPort, limit_s: float) -> Access:
    """The access file, with an address; the broker may be starting beside us for the first time."""
    until = time.monotonic() + limit_s
    while True:
        try:
            found = access_file.read(settings)
            if found.port or time.monotonic() >= until:
                return found
        except BrokerUnreachable:
            if time.monotonic() >= until:
                raise
        if select.select([signals.waitable], [], [], _ACCESS_LOOK_S)[0] and signals.receive():
            raise BrokerUnreachable("told to end before there was a broker", where=str(settings.access_file))


def run(
    settings: Settings, rank_count: int, own_step: bool, patience_s: float, own_code: bool = False
) -> None:
    """Serve until told to stop; a broker that is being started has so long to be there."""
    limits = Limits()
    clock = SystemClock()
    signals = SignalPort()
    found = _wait_for_access(settings, signals, patience_s)
    point = node.meeting_point(settings)
    place = node.be_the_only(point)
    context = zmq.Context()
    keys = (found.broker_public, found.agent_public, found.agent_secret)
    broker = DealerPort(context, found.endpoint, BROKER, codec.TO_AGENT, limits.message_bytes_max, keys, steady=True)
    ranks = RanksPort(point, codec.FROM_RANK, limits.message_bytes_max)
    rank_log = open(settings.log_dir / f"ranks-{node.name()}.log", "ab", buffering=0)
    command = [sys.executable, "-m", "pyfi_hpc.hosts.rank"]
    command += ["--instance", settings.instance, "--home", str(settings.home)]
    around = NodeProcesses(command, rank_log, whose_steps(settings), NodeCode(settings) if own_code else None)
    left_s = slurm_adapter.own_time_left(clock.utc())
    machine = Agent(
        limits, node.name(), secrets.token_hex(8), node.allocation(), rank_count, len(node.usable_cores()), own_step,
        clock.monotonic(), inventory.look(settings, rank_count), clock.monotonic() + left_s,
    )  # fmt: skip
    log.info("agent of %s for instance %s, %d ranks", node.name(), settings.instance, rank_count)
    if left_s < float("inf"):
        log.info("the allocation ends in %.0f s", left_s)
    pidfile.claim(settings, f"agent-{node.tag()}")
    switch = Switch(settings, found.broker_public, broker, ranks)
    try:
        Loop(machine, clock, [broker, ranks, around, signals], switch, doer=around).run()
    finally:
        ranks.close()
        broker.close()
        context.destroy(linger=500)
        around.close()
        node.give_up(point, place)
        node.leave(settings)
        pidfile.release(settings)
        log.info("agent ended")


if __name__ == "__main__":
    main()
