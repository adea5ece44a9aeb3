"""Stories of elastic allocations: what the broker and a batch system tell, and what the machine wants of them."""

from __future__ import annotations

from typing import Any

from story import Teller, Words

from pyfi_hpc.core.elastic import Elastic
from pyfi_hpc.model import elastic as e
from pyfi_hpc.model.allocations import AllocationRequest, JobSeen, Pool, mark_of
from pyfi_hpc.model.effects import Effects

_STATES = {"PENDING": "waits", "RUNNING": "runs"}


class ElasticTeller(Teller):
    """``elastic with p (0 to 4 of 2 ranks)``: a pool of that name; the interval is 10 s, the walltime 10 min."""

    scene = "elastic"

    def set_scene(self, words: str) -> None:
        name, _, rest = words.removeprefix("elastic with ").partition(" (")
        least, most, ranks = (int(word) for word in rest.rstrip(")").split() if word.isdigit())
        request = AllocationRequest(ntasks_per_node=ranks, time="10")
        self.pools = {name: Pool(name=name, request=request, min=least, max=most)}
        self.machine = Elastic(e.Pace(), "me", e.PoolsRead(dict(self.pools), []), {}, 0.0, 0.0)

    def event(self, who: str, words: Words) -> list[Any]:
        return list(getattr(self, f"_{who}_{words.verb}")(words))

    def _broker_tells(self, w: Words) -> list[Any]:
        """``ready=9 granted=2 mean=20 nodes=77:2:1``: allocation, ranks, unfinished tasks there."""
        ready = w.number("ready")
        mean = w.get("mean")
        work = e.Work("work", ready, w.number("room", ready), w.number("granted"), float(mean) if mean else None)
        nodes = [
            e.NodeTold(f"n{number}", key, int(ranks), int(held), not drains, None)
            for number, text in enumerate(filter(None, w.get("nodes").split(",")))
            for key, ranks, held, *drains in [text.split(":")]
        ]
        return [e.BacklogTold(e.Backlog("", [work] if work.ready or work.granted else [], nodes))]

    def _broker_silent(self, w: Words) -> list[Any]:
        return [e.BacklogTold(None, "the broker has not answered")]

    def _slurm_shows(self, w: Words) -> list[Any]:
        """``77=RUNNING 78=PENDING``; ``x79=...`` bears the mark of another instance."""
        seen = []
        for text in w.alone:
            key, _, state = text.partition(":")
            mark = mark_of("other" if key.startswith("x") else "me", w.get("pool", "p"))
            phase: Any = _STATES.get(state, "ended")
            left_s = 600.0 if phase == "runs" else None
            seen.append(JobSeen(key.removeprefix("x"), phase, state, left_s=left_s, mark=mark))
        return [e.StatusRead("slurm", seen)]

    def _slurm_silent(self, w: Words) -> list[Any]:
        return [e.StatusRead("slurm", None, "no answer from Slurm in 30 s")]

    def _slurm_takes(self, w: Words) -> list[Any]:
        return [e.SubmitEnded("p", "slurm", w.alone[0])]

    def _slurm_refuses(self, w: Words) -> list[Any]:
        return [e.SubmitEnded("p", "slurm", "", w.alone[0])]

    def _slurm_hangs(self, w: Words) -> list[Any]:
        return [e.SubmitEnded("p", "slurm", "", "no answer from Slurm in 30 s", unsure=True)]

    def _slurm_ended(self, w: Words) -> list[Any]:
        return [e.EndsRead({w.alone[0]: w.get("words")})]

    def _people_why(self, w: Words) -> list[Any]:
        return []

    def _people_remove(self, w: Words) -> list[Any]:
        self.pools.clear()
        return [e.PoolsRead({}, [])]

    def shown(self, words: Words) -> list[str]:
        told = self.machine.told("p", self.now) if words.verb == "why" else {"why": []}
        return [f"shown   {line}" for line in told["why"]]

    def lines(self, out: Effects) -> list[str]:
        stopped = ["stopped"] if self.machine.stopped else []
        return [_LINES[type(action)](action) for action in out.actions] + stopped


_LINES: dict[type, Any] = {
    e.AskBacklog: lambda a: "do      ask the broker",
    e.ReadStatus: lambda a: f"do      ask {a.system}",
    e.Submit: lambda a: f"do      submit {a.pool.name}",
    e.NoteJob: lambda a: f"do      note {a.note.key} of {a.note.pool}" + (", joined" if a.note.joined else ""),
    e.ForgetJob: lambda a: f"do      forget {a.key}",
    e.Cancel: lambda a: f"do      cancel {a.key}" + (" if it waits" if a.only_waiting else ""),
    e.GiveBack: lambda a: f"do      give back {a.key}",
    e.ReadEnds: lambda a: f"do      ask {a.system} how {', '.join(a.keys)} ended",
    e.Tell: lambda a: f"log     {a.pool}: {a.text}",
}
