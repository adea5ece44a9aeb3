"""Why a task waits, about when it starts and what would start it: what the dispatcher goes by, in words.

    LedgerDown         Postgres does not answer: nothing is granted
    Recovering         the broker has just started
    JobHeldUser        its job is on hold: core/holds.py
    Dependency         the task takes results of tasks that have not ended
    NoNodes            no agent has joined
    NodesQuarantined   all nodes rest, because tasks failed there that completed elsewhere
    NodesDraining      all nodes are about to leave
    JobArrayTaskLimit  as many tasks of its job run as may
    SocketLimit        as many calls of its socket run as may
    Walltime           it would not end before the allocations do: core/walltime.py
    Elsewhere          only nodes where it failed have room, and another may come
    Priority           tasks of a higher priority go first
    FairShare          another account has used less of its share, and goes first
    Resources          all ranks are busy

They are looked for in this order; the first that holds is the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pyfi_hpc.core import fits, gangs, health, walltime
from pyfi_hpc.core.jobs import Batch, Job
from pyfi_hpc.core.nodes import Grant, Node
from pyfi_hpc.core.queue import ClassKey, key_of, may_go
from pyfi_hpc.core.shares import Account, Share
from pyfi_hpc.core.state import State
from pyfi_hpc.model.ids import JobId
from pyfi_hpc.model.states import FIRST_FINAL, Cause, TaskState
from pyfi_hpc.model.terms import decode, words

WHY = "why"
#: things of one kind that are named one by one
_NAMED_MAX = 3
_OPEN = (TaskState.PENDING, TaskState.BLOCKED, TaskState.RUNNING)


class _Asked(msgspec.Struct):
    """What is asked after: a job, one task of it, or a node."""

    job: int = 0
    index: int | None = None
    node: str = ""


@dataclass(slots=True)
class Why:
    """One task's case. ``would``: sentences, each a change after which it starts or goes on at once."""

    reason: str
    because: list[str] = field(default_factory=list)
    would: list[str] = field(default_factory=list)
    #: expected, from the mean durations of what goes first; None: unknown
    start_s: float | None = None


def job_reason(s: State, job: Job, pending: int, blocked: int, now: float) -> str:
    """Why the first of a job's waiting tasks waits, as in squeue; "None": none does.

    Cost: one look at each of its batches, at each class that is ready and at each node.
    """
    place = _first(job, TaskState.PENDING) if pending else None
    if place is not None:
        return _reason(s, *place, now)
    return _halted(s) or (("JobHeldUser" if job.on_hold else "Dependency") if blocked else "None")


def asked(s: State, _verb: str, body: bytes, now: float, _out: Any) -> tuple[bool, bytes]:
    """The verb ``why``: the answer to who asked, from ``job`` with or without ``index``, or from ``node``."""
    try:
        wanted = _asked.decode(body)
    except (msgspec.MsgspecError, ValueError):
        words = {"code": "usage_error", "what": "the request names no task, job or node", "where": WHY, "fix": ""}
        return False, _encode(words)
    if wanted.node:
        return _answer(_nodes(s, wanted.node, now), f"node or allocation {wanted.node}")
    job = s.book.jobs.get(JobId(wanted.job))
    if wanted.index is None:
        return _answer(None if job is None else _job(s, job, now), f"unfinished job {wanted.job}")
    place = None if job is None else job.locate(wanted.index)
    found = None if place is None or place[0].states[place[1]] >= FIRST_FINAL else _task(s, *place, now)
    return _answer(found, f"unfinished task {wanted.job}.{wanted.index}")


def _answer(found: dict[str, Any] | None, what: str) -> tuple[bool, bytes]:
    if found is None:
        return False, _encode({"code": "not_found", "what": f"there is no {what}", "where": WHY, "fix": ""})
    return True, _encode(found)


# --- tasks and jobs -----------------------------------------------------------------------------------


def _job(s: State, job: Job, now: float) -> dict[str, Any]:
    """The case of its first task that waits, else of the first that runs."""
    place = next((place for state in _OPEN if (place := _first(job, state))), None)
    if place is None:
        text = "all tasks so far have ended; its client has not said that no more follow"
        return {"job": job.id, "name": job.name, "reason": "None", "because": [text], "would": [], "start_s": None}
    counts = {state.word: 0 for state in _OPEN}
    for state in _OPEN:
        counts[state.word] += sum(batch.states.count(state) for batch in job.batches)
    return {**_task(s, *place, now), "counts": counts}


def _task(s: State, batch: Batch, offset: int, now: float) -> dict[str, Any]:
    why = of_task(s, batch, offset, now)
    return {
        "job": batch.job.id, "index": batch.first + offset, "name": batch.job.name, "socket": _socket(s, batch.socket),
        "state": TaskState(batch.states[offset]).word, "reason": why.reason, "because": why.because,
        "would": why.would, "start_s": why.start_s,
    }  # fmt: skip


def _first(job: Job, state: TaskState) -> tuple[Batch, int] | None:
    for batch in job.batches:
        offset = batch.states.find(state)
        if offset >= 0:
            return batch, offset
    return None


def of_task(s: State, batch: Batch, offset: int, now: float) -> Why:
    """The case of one unfinished task."""
    reason = _reason(s, batch, offset, now)
    return _WORDS[reason](s, batch, offset, now)


def _reason(s: State, batch: Batch, offset: int, now: float) -> str:
    state = batch.states[offset]
    if halted := _halted(s):
        return halted
    if state not in (TaskState.PENDING, TaskState.BLOCKED):
        return "None"
    if batch.job.on_hold:
        return "JobHeldUser"
    if state == TaskState.BLOCKED:
        return "Dependency"
    if no_node := _no_node(s, now):
        return no_node
    job, limit = batch.job, s.queue.concurrency.get(batch.socket, 0)
    if 0 < job.at_once <= job.granted:
        return "JobArrayTaskLimit"
    if 0 < limit <= s.queue.running.get(batch.socket, 0):
        return "SocketLimit"
    if all(walltime.refuses(s, node, batch, offset, now) for node in _usable(s, now)):
        return "Walltime"
    if _kept_away(s, batch, offset, now):
        return "Elsewhere"
    if s.queue.topped(batch.priority):
        return "Priority"
    return "Resources" if s.queue.behind(batch) is None else "FairShare"


def _halted(s: State) -> str:
    return "LedgerDown" if s.ledger_down else "Recovering" if s.recover_until else ""


def _no_node(s: State, now: float) -> str:
    """Why no node at all may get tasks; "": one may."""
    nodes = s.nodes.by_name.values()
    if not nodes:
        return "NoNodes"
    if any(health.usable(s, node, now) and not (node.resting and not node.rank_count) for node in nodes):
        return ""
    return "NodesQuarantined" if any(not node.draining for node in nodes) else "NodesDraining"


def _usable(s: State, now: float) -> list[Node]:
    return [node for node in s.nodes.by_name.values() if health.usable(s, node, now)]


def _kept_away(s: State, batch: Batch, offset: int, now: float) -> bool:
    """Whether there is room, but only where the task failed: what ``dispatch.fill`` gives to ``queue.take``."""
    usable = _usable(s, now)
    roomy = [node for node in usable if node.spare > 0]
    several = sum(node.rank_count > 0 for node in usable) > 1
    since = now + s.utc_offset - s.limits.elsewhere_s if several else float("inf")
    trouble = batch.trouble.get(offset) if batch.trouble else None
    if trouble is None or not roomy:
        return False
    left = {node.name: walltime.left_s(s, node, now) for node in roomy}
    return not any(may_go(trouble, node.name, len(roomy) == 1, since, left[node.name]) for node in roomy)


# --- words for each reason ----------------------------------------------------------------------------


def _ledger_down(s: State, _batch: Batch, _offset: int, _now: float) -> Why:
    return Why("LedgerDown", [f"the ledger is away: {s.ledger_down}"], ["It would go on if Postgres answered again."])


def _recovering(s: State, _batch: Batch, _offset: int, now: float) -> Why:
    text = "the broker has just started, and waits until agents have said what they still run"
    return Why("Recovering", [text], [], max(0.0, s.recover_until - now))


def _on_hold(s: State, batch: Batch, offset: int, now: float) -> Why:
    job = batch.job
    because = [f"job {job.id} is on hold"]
    if batch.states[offset] == TaskState.BLOCKED:
        because += _dependency(s, batch, offset, now).because
    return Why("JobHeldUser", because, [f"It would go on after `pyfi release {job.id}`."])


def _no_nodes(_s: State, _batch: Batch, _offset: int, _now: float) -> Why:
    fix = "`pyfi up` starts one here, `pyfi up --slurm` asks for an allocation"
    return Why("NoNodes", ["no agent has joined"], [f"It would start if a node joined: {fix}."])


def _all_quarantined(s: State, _batch: Batch, _offset: int, now: float) -> Why:
    nodes = [node for node in s.nodes.by_name.values() if not node.draining]
    because = [line for node in nodes for line in _trouble(s, node, now)]
    names = sorted({health.machine(node.name) for node in nodes})
    return Why("NodesQuarantined", because, [f"It would start now after `pyfi node release {name}`." for name in names])


def _all_draining(s: State, _batch: Batch, _offset: int, _now: float) -> Why:
    because = ["all nodes are about to leave, and take nothing more: " + ", ".join(map(str, s.nodes.by_name))]
    return Why("NodesDraining", because, ["It would start if another node joined: `pyfi up --slurm`."])


def _dependency(s: State, batch: Batch, offset: int, _now: float) -> Why:
    need = batch.waiting[offset] if batch.waiting else None
    missing = sorted(need.missing) if need else []
    words = [f"{job}.{index} ({_word(s, job, index)})" for job, index in missing[:_NAMED_MAX]]
    if len(missing) > _NAMED_MAX:
        words.append(f"{len(missing) - _NAMED_MAX} more")
    because = ["it takes the results of " + ", ".join(words)]
    first = f"{missing[0][0]}.{missing[0][1]}" if missing else ""
    return Why("Dependency", because, [f"`pyfi why {first}` tells why that one has not ended."] if first else [])


def _word(s: State, job: JobId, index: int) -> str:
    known = s.book.jobs.get(job)
    place = known.locate(index) if known else None
    if place is None:
        return "being read"
    state = TaskState(place[0].states[place[1]])
    return f"{state.word}, on hold" if place[0].job.on_hold and state != TaskState.RUNNING else state.word


def _array_limit(_s: State, batch: Batch, _offset: int, _now: float) -> Why:
    job = batch.job
    because = [f"its job has {_many(job.granted, 'task')} running, and at most {job.at_once} may"]
    return Why("JobArrayTaskLimit", because, ["The next one starts when one of these ends."])


def _socket_limit(s: State, batch: Batch, _offset: int, _now: float) -> Why:
    name, limit = _socket(s, batch.socket), s.queue.concurrency[batch.socket]
    because = [f"{name} has {_many(s.queue.running[batch.socket], 'call')} running, and at most {limit} may"]
    fix = f"`pyfi update socket -n {name} -c N` sets it, 0 lifts it"
    return Why("SocketLimit", because, [f"It would start if the limit were higher and a rank idle: {fix}."])


def _walltime(s: State, batch: Batch, offset: int, now: float) -> Why:
    because, would = walltime.reasons(s, batch, offset, _usable(s, now), _socket(s, batch.socket), now)
    return Why("Walltime", because, [f"{would}: `pyfi up --slurm -t TIME` asks for an allocation."])


def _elsewhere(s: State, batch: Batch, offset: int, now: float) -> Why:
    assert batch.trouble is not None
    last = batch.trouble[offset].ends[-1]
    if last.cause == Cause.CONTINUED:
        text = f"it returned Continue on {last.node}, which ends soon"
        return Why("Elsewhere", [text], ["It would go on if another node had an idle rank: `pyfi up --slurm`."])
    text = f"it failed on {last.node} ({last.cause.name}), and is not tried there again while another node may come"
    left = last.at + s.limits.elsewhere_s - (now + s.utc_offset)
    return Why("Elsewhere", [text], ["It would start if another node had an idle rank."], max(0.0, left))


def _no_rank(s: State, batch: Batch, offset: int, now: float) -> Why:
    line = list(s.queue.line(batch, offset, s.limits.grant_tasks_max))
    nodes = [node for node in s.nodes.by_name.values() if health.usable(s, node, now)]
    ranks = sum(node.rank_count for node in nodes)
    idle = sum(max(0, node.vacant) for node in nodes)
    ahead = sum(most for _, most, _ in line)
    other = s.queue.behind(batch)
    because = [f"{max(0, ranks - idle)} of {_many(ranks, 'rank')} have work"]
    if ahead:
        because.append(f"up to {ahead} go first: " + _classes(s, line, batch.priority))
    if other is not None:
        because.append(_less_used(s, batch.job, other))
    if s.ahead is not None and s.ahead.key != key_of(batch):
        wanted = words(decode(s.ahead.key.terms).ways[0])
        because.append(f"{wanted} are kept for a call of {_socket(s, s.ahead.key.socket)} that was here before")
    if batch.terms:
        because += _needs(batch, nodes)
        would = ["It would start now on a node that has all of that free: `pyfi up --slurm` asks for an allocation."]
    else:
        more = max(1, ahead + 1 - idle)
        would = [f"It would start now with {_many(more, 'more idle rank')}: `pyfi up --slurm` asks for an allocation."]
    topped = s.queue.topped(batch.priority)
    if topped or other is not None:
        top = s.queue.highest()
        would.append(f"With a priority above {top} it would be next: `--priority {top + 1}`.")
    start_s = _start_s(s, batch, line, nodes, ranks)
    return Why("Priority" if topped else "Resources" if other is None else "FairShare", because, would, start_s)


def _needs(batch: Batch, nodes: list[Node]) -> list[str]:
    """What a task needs, and what the nodes with most of it have left."""
    terms = decode(batch.terms)
    found = ["it needs " + ", or ".join(map(words, terms.ways))]
    if terms.ranks:
        worlds: dict[str, int] = {}
        for node in nodes:
            for world, count in gangs.worlds_of(node, terms).items():
                worlds[world] = worlds.get(world, 0) + count
        largest = "allocation of Slurm, or other node," if terms.step else "MPI world"
        found.append(f"the largest {largest} has {_many(max(worlds.values(), default=0), 'rank')}")
    roomy = sorted(nodes, key=lambda node: node.stock.ranks - node.rank_count)
    return found + [f"{node.name} has {fits.free(node.stock, node.rank_count)}" for node in roomy[:_NAMED_MAX]]


def _less_used(s: State, job: Job, other: Account) -> str:
    """Which of two shares goes first: of projects, or of two who submit to one."""
    own = s.queue.shares.of(job.project, job.owner)
    pair: tuple[Share, Share] = (own.project, other.project)
    kind = "project"
    if own.project is other.project:
        pair, kind = (own, other), "user"
    words = [
        f"{share.name or '(none)'} has used {s.queue.shares.used_s(share):.3g} rank-seconds (weight {share.weight:g})"
        for share in pair
    ]
    return f"{kind} {words[0]}; {words[1]}, and goes first"


def _classes(s: State, found: list[tuple[ClassKey, int, int]], own: int) -> str:
    line = [(key, most) for key, most, _ in found]
    largest = sorted(line, key=lambda pair: (-pair[0].priority, -pair[1]))
    words = [
        f"{count} of {_socket(s, key.socket)}" + (f" with priority {key.priority}" if key.priority != own else "")
        for key, count in largest[:_NAMED_MAX]
    ]
    if len(line) > _NAMED_MAX:
        words.append(f"{sum(count for _, count in largest[_NAMED_MAX:])} others")
    return ", ".join(words)


def _start_s(
    s: State, batch: Batch, line: list[tuple[ClassKey, int, int]], nodes: list[Node], ranks: int
) -> float | None:
    """When a rank is free for it, if all takes as long as it did on average. None: something has not been seen yet."""
    work = 0.0
    for key, _, likely in line:
        mean = s.durations.of(key.socket)
        if mean is None:
            return None
        work += mean * likely
    for node in nodes:
        for grant in node.grants.values():
            mean = s.durations.of(grant.batch.socket)
            if mean is None:
                return None
            running = sum((grant.id, offset) in node.running for offset in _owed(grant))
            work += mean * (grant.open - running / 2)  # one that runs is half over, on average
    return work / ranks if ranks else None


def _owed(grant: Grant) -> Iterator[int]:
    return (grant.lo + at for at, left in enumerate(grant.left) if left)


def _running(s: State, batch: Batch, offset: int, _now: float) -> Why:
    for node in s.nodes.by_name.values():
        for grant in node.grants.values():
            at = offset - grant.lo
            if grant.batch is batch and 0 <= at < grant.count and grant.left[at]:
                return _at_node(batch, offset, node, (grant.id, offset) in node.running)
    return Why("None", ["its end is being written"])


def _at_node(batch: Batch, offset: int, node: Node, runs: bool) -> Why:
    need = (batch.waiting or {}).get(offset)
    if runs:
        return Why("None", [f"it runs on {node.name}"])
    if need is not None and need.follow is not None:
        return Why("None", [f"node {node.name} starts it as soon as it has made the results that the task takes"])
    return Why("None", [f"node {node.name} has it, and had not started it when it was heard last"])


_WORDS: dict[str, Callable[[State, Batch, int, float], Why]] = {
    "LedgerDown": _ledger_down,
    "Recovering": _recovering,
    "JobHeldUser": _on_hold,
    "Dependency": _dependency,
    "NoNodes": _no_nodes,
    "NodesQuarantined": _all_quarantined,
    "NodesDraining": _all_draining,
    "JobArrayTaskLimit": _array_limit,
    "SocketLimit": _socket_limit,
    "Walltime": _walltime,
    "Elsewhere": _elsewhere,
    "Priority": _no_rank,
    "FairShare": _no_rank,
    "Resources": _no_rank,
    "None": _running,
}


# --- nodes --------------------------------------------------------------------------------------------


def _nodes(s: State, name: str, now: float) -> dict[str, Any] | None:
    """Nodes of that name, on that machine or of that allocation: what they do, and why not more."""
    found = [
        node for node in s.nodes.by_name.values() if name in (node.name, health.machine(node.name), node.allocation)
    ]
    return {"nodes": [_node(s, node, now) for node in found]} if found else None


def _node(s: State, node: Node, now: float) -> dict[str, Any]:
    idle = max(0, node.vacant)
    because = [f"{node.rank_count - idle} of {_many(node.rank_count, 'rank')} have work", *_trouble(s, node, now)]
    would = []
    if node.draining:
        because.append("it is about to leave, and takes nothing more")
    elif len(because) > 1:
        would.append(f"It would take tasks again after `pyfi node release {health.machine(node.name)}`.")
    elif idle:
        because.append(_why_idle(s))
    return {"name": node.name, "allocation": node.allocation, "because": because, "would": would}


def _trouble(s: State, node: Node, now: float) -> list[str]:
    told = health.told(s, node, now)
    lines = []
    if told["quarantined"]:
        left = told["quarantined_until"] - (now + s.utc_offset)
        lines.append(f"{node.name} is quarantined for {left:.0f} s more: {told['quarantined']}")
    for rest in told["resting"]:
        who = "start of ranks" if rest["rank"] < 0 else f"rank {rest['rank']}"
        left = rest["until"] - (now + s.utc_offset)
        lines.append(f"{who} on {node.name} rests for {left:.0f} s more: {rest['reason']}")
    return lines


def _why_idle(s: State) -> str:
    if halted := _halted(s):
        return f"nothing is given to any node now: {halted}"
    if not s.queue.ready:
        return "nothing is ready to run"
    if not s.queue.may_grant():
        return f"what is ready ({_many(s.queue.ready, 'task')}) is at a limit of its job or socket"
    return "tasks are being given to it"


def _socket(s: State, number: int) -> str:
    spec = s.functions.get(number)
    return spec.name if spec else f"socket {number}"


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"


_encode = msgspec.msgpack.Encoder().encode
_asked = msgspec.msgpack.Decoder(_Asked)
