"""Allocations of an instance: asked for with `request`, ended with the instance.

Which ones were asked for stands in ``INSTANCE/allocations``, one file each: an allocation that still waits in
a batch system's queue has no agent that a broker could tell to end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pyfi_hpc.adapters import address, batch, pidfile, slurm, slurm_batch
from pyfi_hpc.adapters.access import write_json
from pyfi_hpc.adapters.batch_command import COMMAND_S_MAX
from pyfi_hpc.adapters.slurm import AllocationRequest, Submitted
from pyfi_hpc.errors import BrokerHeld, SettingsError, SiteError, TransientError
from pyfi_hpc.hosts import pools
from pyfi_hpc.model.allocations import JobSeen, Note, key_of, pool_of
from pyfi_hpc.settings import Settings, private_folder

#: between two questions to a batch system, seconds
_LOOK_S = 0.3
#: a person who asks how things are waits so long for a batch system, seconds
_TELL_S = 5.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A noted allocation and what its batch system says of it; ``trouble``: why it says nothing."""

    note: Note
    seen: JobSeen | None
    trouble: str = ""


def reachable(settings: Settings) -> Settings:
    """The settings with an address to listen on that compute nodes reach: the given one, else this machine's.

    Raises
    ------
    SettingsError
        The given one is loopback, or none was found.
    """
    if not settings.bind:
        found = address.for_nodes()
        return replace(settings, bind=found, origin={**settings.origin, "bind": "towards the compute nodes"})
    if address.is_loopback(settings.bind):
        raise SettingsError(
            f"compute nodes cannot reach {settings.bind}", where=settings.origin.get("bind", "--bind"),
            fix="leave it out, or name an address of the cluster's network",
        )  # fmt: skip
    return settings


def request(settings: Settings, wanted: AllocationRequest) -> Submitted:
    """Submit the allocation and note it, so that `end` finds it.

    Raises
    ------
    BrokerHeld
        A broker in the allocation is wanted, and this instance has one already.
    SlurmRefused, SlurmBusy, SlurmMissing
        With Slurm's own words.
    """
    running = next((d for d in pidfile.daemons(settings) if d.name == "broker" and d.alive), None)
    if wanted.broker == "job" and running is not None:
        raise BrokerHeld(
            f"instance {settings.instance!r} has a broker already", where=f"pid {running.pid} on {running.host}",
            fix="leave out --broker=job: the allocation joins that one; or stop it first with `pyfi down`",
        )  # fmt: skip
    answer = slurm.submit(wanted)
    assert answer.slurm_job_id is not None
    system = f"slurm@{wanted.cluster}" if wanted.cluster else "slurm"
    ranks = wanted.nodes * wanted.ntasks_per_node
    note(settings, Note(key_of(str(answer.slurm_job_id), wanted.cluster), system, "", ranks, at=time.time()))
    return answer


def note(settings: Settings, entry: Note) -> None:
    """Keep that an allocation was asked for."""
    private_folder(_folder(settings))
    write_json(_folder(settings) / f"{entry.key}.json", asdict(entry))


def forget(settings: Settings, key: str) -> None:
    (_folder(settings) / f"{key}.json").unlink(missing_ok=True)


def noted(settings: Settings) -> list[Note]:
    """Allocations that were asked for and are not known to have ended."""
    found = []
    known = {field.name for field in fields(Note)}
    for file in _folder(settings).glob("[0-9]*.json"):
        with suppress(OSError, ValueError, AttributeError):  # just gone, or being written
            values = json.loads(file.read_text())
            given = {name: value for name, value in values.items() if name in known and name != "key"}
            found.append(Note(key=file.name.removesuffix(".json"), **given))
    return sorted(found, key=lambda entry: (len(entry.key), entry.key))


def entries(settings: Settings) -> list[Entry]:
    """What batch systems say of this instance's allocations: those that wait or run, and those of which nobody knows.

    Cost: one question to each system that has some.
    """
    found = []
    notes = noted(settings)
    for system in dict.fromkeys(entry.system for entry in notes):
        mine = [entry for entry in notes if entry.system == system]
        try:
            seen = {job.key: job for job in batch.system(system).status({n.key for n in mine}, _TELL_S)}
        except (SiteError, TransientError) as error:
            found += [Entry(entry, None, error.what) for entry in mine]
            continue
        found += [Entry(entry, seen[entry.key]) for entry in mine if entry.key in seen]
    return [entry for entry in found if entry.seen is None or entry.seen.phase != "ended"]


def why(settings: Settings, key: str) -> dict[str, Any] | None:
    """What a batch system says of a noted allocation: state, reasons in its own words and ours; None: it is not noted.

    Cost: one question to the system.
    """
    found = next((entry for entry in noted(settings) if entry.key == key), None)
    if found is None:
        return None
    name = "PBS" if found.system == "pbs" else "Slurm"
    origin = f"the pool {found.pool} has" if found.pool else "somebody has"
    because = [f"{origin} asked for it {max(0.0, time.time() - found.at):.0f} s ago"] if found.at else []
    told: dict[str, Any] = {"allocation": key, "pool": found.pool, "system": found.system, "state": "UNKNOWN",
                            "reason": "", "expected_at": None, "because": because, "would": []}  # fmt: skip
    try:
        jobs = batch.system(found.system).status({key}, _TELL_S)
    except (SiteError, TransientError) as error:
        because.append(f"{name} does not tell: {error.what}")
        return told
    job = next((job for job in jobs if job.key == key), None)
    if job is None:
        because.append(f"{name} does not show it any more: it has ended")
        return told
    told.update(state=job.state, reason=job.reason, expected_at=job.start_at)
    meaning = slurm_batch.REASONS.get(job.reason.partition(",")[0], "") if name == "Slurm" else ""
    because.append(f"{name} says: {job.words}" + (f", which means: {meaning}" if meaning else ""))
    if job.phase == "waits":
        at = job.start_at and datetime.fromtimestamp(job.start_at).isoformat(sep=" ", timespec="seconds")
        because.append(f"{name} expects its start at {at}" if at else f"{name} does not say when it starts")
    elif job.phase == "runs":
        because.append(f"it runs on {', '.join(job.nodes) or 'nodes that are being made ready'}")
    return told


def end(settings: Settings, patience_s: float) -> list[str]:
    """End this instance's allocations; those that run have so long to end by themselves. Keys of the ended.

    What a batch system does not answer stays noted for the next time.
    """
    notes = noted(settings)
    ended: list[str] = []
    deadline = time.monotonic() + patience_s
    # also where nothing is noted: a submission may have been under way when the elastic process ended
    for system in dict.fromkeys([n.system for n in notes] + [p.system for p in pools.stored(settings).values()]):
        with suppress(SiteError, TransientError):
            mine = {entry.key for entry in notes if entry.system == system}
            _end_of(settings, system, mine, deadline, ended)
            for key in mine:
                forget(settings, key)
    return sorted(set(ended), key=lambda key: (len(key), key))


def _end_of(settings: Settings, system: str, mine: Collection[str], deadline: float, ended: list[str]) -> None:
    at, ours = batch.system(system), pools.tag(settings)
    while True:
        seen = at.status(mine, COMMAND_S_MAX)
        left = [
            job for job in seen if job.phase != "ended" and (job.key in mine or pool_of(job.mark, ours) is not None)
        ]
        if not left:
            return
        late = time.monotonic() > deadline
        for job in left:
            if job.phase == "waits" or late:
                at.cancel(job.key)
            ended.append(job.key)
        if late:
            return
        time.sleep(_LOOK_S)


def _folder(settings: Settings) -> Path:
    return settings.instance_dir / "allocations"
