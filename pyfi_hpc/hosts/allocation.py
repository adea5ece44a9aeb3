"""Allocations of an instance: asked for with `start`, ended with the instance.

Which ones were asked for stands in ``INSTANCE/allocations``, one file each: an allocation that still waits in
Slurm's queue has no agent that a broker could tell to end.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from pyfi_hpc.adapters import access, address, pidfile, slurm
from pyfi_hpc.adapters.access import write_json
from pyfi_hpc.adapters.slurm import AllocationRequest, QueueEntry, Submitted
from pyfi_hpc.errors import BrokerHeld, SettingsError, SiteError, TransientError
from pyfi_hpc.settings import Settings, private_folder

#: between two questions to Slurm's controller, seconds
_LOOK_S = 0.3
#: a person who asks how things are waits so long for Slurm, seconds
_TELL_S = 5.0


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


def check_broker(settings: Settings) -> None:
    """See that the broker that runs listens where nodes can reach it.

    Raises
    ------
    SettingsError
        It listens on loopback.
    """
    endpoint = access.read(settings)
    if address.is_loopback(endpoint.host):
        raise SettingsError(
            f"the broker of instance {settings.instance!r} listens where compute nodes cannot reach it",
            where=endpoint.endpoint,
            fix="`pyfi down`, then `pyfi up --slurm ...`: that listens on the cluster's network",
        )


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
    private_folder(_folder(settings))
    write_json(_folder(settings) / f"{answer.slurm_job_id}.json", {"broker": wanted.broker, "at": time.time()})
    return answer


def noted(settings: Settings) -> list[int]:
    """Slurm's ids of the allocations that were asked for and not ended by `end`."""
    return sorted(int(file.stem) for file in _folder(settings).glob("[0-9]*.json"))


def entries(settings: Settings) -> list[QueueEntry]:
    """What Slurm says of this instance's allocations that wait or run.

    Raises
    ------
    SlurmRefused, SlurmBusy, SlurmMissing
        With Slurm's own words.
    """
    found = slurm.queue(noted(settings), _TELL_S)
    return [entry for _, entry in sorted(found.items()) if entry.state in slurm.ALIVE]


def end(settings: Settings, patience_s: float) -> list[int]:
    """End this instance's allocations; those that run have so long to end by themselves. Ids of the ended.

    What Slurm does not answer stays noted for the next time.
    """
    wanted = noted(settings)
    if not wanted:
        return []
    deadline = time.monotonic() + patience_s
    ended: list[int] = []
    try:
        while left := [entry for entry in slurm.queue(wanted).values() if entry.state in slurm.ALIVE]:
            late = time.monotonic() > deadline
            for entry in left:
                if entry.state == "PENDING" or late:
                    slurm.cancel(entry.slurm_job_id)
                ended.append(entry.slurm_job_id)
            if late:
                break
            time.sleep(_LOOK_S)
    except (SiteError, TransientError):
        return sorted(set(ended))
    for job in wanted:
        (_folder(settings) / f"{job}.json").unlink(missing_ok=True)
    return sorted(set(ended))


def _folder(settings: Settings) -> Path:
    return settings.instance_dir / "allocations"
