"""What a pool would do now, without doing it: the shipping machine, told what is true, and nothing carried out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from pyfi_hpc.adapters import batch
from pyfi_hpc.adapters.batch_command import COMMAND_S_MAX
from pyfi_hpc.core.elastic import Elastic
from pyfi_hpc.errors import PyfiError, SiteError, TransientError
from pyfi_hpc.hosts import elastic, pools
from pyfi_hpc.model import elastic as e
from pyfi_hpc.model.allocations import Pool
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.settings import Settings


@dataclass(frozen=True, slots=True)
class Rehearsed:
    #: sentences
    why: list[str]
    #: allocations that would be asked for
    submits: int
    script: str
    #: what the batch system says of the script
    words: str


def rehearse(settings: Settings, pool: Pool, ask: Callable[[], object]) -> Rehearsed:
    """One round of the machine for a pool that is not stored yet, or would be changed.

    Parameters
    ----------
    ask : callable
        Asks the broker for its backlog.

    Raises
    ------
    UsageError
        The request cannot be.
    """
    request = elastic.marked(settings, pool)
    system = batch.system(pool.system)
    script = system.script(request)
    read = elastic.read(settings)
    read.pools = {pool.name: pool}
    now = time.monotonic()
    machine = Elastic(e.Pace.of(settings.batch_interval_s), pools.tag(settings), read, {}, now, time.time())
    out = Effects()
    machine.advance(now, out)
    asked = [action for action in out.actions if isinstance(action, e.ReadStatus)]
    out.actions.clear()
    for action in asked:
        machine.handle(_status(action), now, out)
    machine.handle(_backlog(ask), now, out)
    machine.advance(now, out)
    submits = sum(isinstance(action, e.Submit) and action.pool.name == pool.name for action in out.actions)
    try:
        words = system.check(request)
    except (SiteError, TransientError) as error:
        words = error.what
    return Rehearsed(machine.pools[pool.name].why, submits, script, words)


def _status(action: e.ReadStatus) -> e.StatusRead:
    try:
        return e.StatusRead(action.system, batch.system(action.system).status(action.keys, COMMAND_S_MAX))
    except (SiteError, TransientError) as error:
        return e.StatusRead(action.system, None, elastic.words_of(error))


def _backlog(ask: Callable[[], object]) -> e.BacklogTold:
    try:
        return e.BacklogTold(msgspec.convert(ask(), e.Backlog))
    except (PyfiError, TimeoutError) as error:
        return e.BacklogTold(None, elastic.words_of(error))

