"""Fair shares: whose tasks come next among those of one priority, by the rank-seconds that each has used.

Two levels: projects share the ranks by their weights, and within a project so do those who submit to it. An
**account** is one submitter in one project. What an account has used is forgotten by half in each half-life.

The rule: next is the account with the lowest **level**, which is what it has used over its weight; of projects
likewise. A grant is charged at once with what its tasks are expected to take, and put right by what they took; one
that runs for longer than was expected is charged as it runs. So accounts with enough to do get ranks in proportion to
their weights, and somebody who has used little is served first. Who comes back after a rest is neither more than
``share_lead_s`` of all ranks ahead of those who are there, nor more than that behind: nobody is held up for long by
what somebody did not use, or did, long ago.

Decay costs nothing: in place of making all old usage smaller, new usage counts more. The unit doubles in each half-life
and is started again from one when it is large.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp
from typing import Any, Protocol, TypeVar

from pyfi_hpc.core.durations import Durations
from pyfi_hpc.model.limits import Limits

#: of a task of a function that nobody has seen end, while nothing at all has ended, seconds
_GUESS_S = 1.0
#: the unit in which usage is kept is started again from one after so many half-lives
_LIVES_MAX = 200.0
#: accounts that are remembered though they have nothing to do and have used next to nothing
_IDLE_MAX = 1000
_IDLE_USED_S = 1.0
#: of a half-life: what takes no longer does not decay meanwhile
_SHORT = 1e-3
_LN2 = 0.6931471805599453


@dataclass(slots=True, eq=False)
class Share:
    """A project, or a submitter in one. Numbers are in the unit of the table: see ``Shares``."""

    name: str
    order: int  #: who was here first goes first at the same level
    weight: float = 1.0
    used: float = 0.0
    level: float = 0.0
    #: lines with ready tasks: it takes part while there are any
    lines: int = 0

    def charge(self, amount: float) -> None:
        self.used += amount
        self.level += amount / self.weight


@dataclass(slots=True, eq=False)
class Project(Share):
    accounts: dict[str, Account] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Account(Share):
    """A submitter in a project."""

    project: Project = field(default_factory=lambda: Project("", 0))
    granted: int = 0  #: its tasks at nodes

    @property
    def rank(self) -> tuple[float, int, float, int]:
        """Smallest first."""
        return self.project.level, self.project.order, self.level, self.order


@dataclass(slots=True)
class Charge:
    """What the open tasks of a grant are charged, together."""

    account: Account
    at: float  #: when they were granted, monotonic seconds
    since: float  #: of the unit: see ``Shares._since``
    width: int  #: ranks that each takes
    amount: float


class HasAccount(Protocol):
    account: Account


_L = TypeVar("_L", bound=HasAccount)


class Shares:
    """All accounts. Cost of a charge: a microsecond.

    Parameters
    ----------
    limits : Limits
    durations : Durations
        By socket: what a task is expected to take.
    """

    def __init__(self, limits: Limits, durations: Durations) -> None:
        self._limits = limits
        self._durations = durations
        self.projects: dict[str, Project] = {}
        #: ("project" or "user", name) -> weight, where it is not 1
        self.weights: dict[tuple[str, str], float] = {}
        #: monotonic seconds
        self.now = 0.0
        #: ranks that there are, about
        self.ranks = 1
        self._since = 0.0  # when the unit was one
        self._unit = 1.0
        self._made = 0
        self._look_for_idle = _IDLE_MAX
        self._count = 0

    def tell(self, now: float) -> None:
        """The time; told by the broker's machine before anything else of an event."""
        if now == self.now:
            return
        self.now = now
        lives = (now - self._since) / self._limits.share_half_life_s
        if lives > _LIVES_MAX:
            self._since, self._unit = now, 1.0
            smaller = 2.0 ** -min(lives, 1000.0)
            for project in self.projects.values():
                for share in (project, *project.accounts.values()):
                    share.used *= smaller
                    share.level *= smaller
        else:
            self._unit = 2.0**lives

    def of(self, project: str, owner: str) -> Account:
        group = self.projects.get(project)
        if group is None:
            group = self.projects[project] = Project(project, self._next(), self.weight_of("project", project))
        account = group.accounts.get(owner)
        if account is None:
            account = Account(owner, self._next(), self.weight_of("user", owner), project=group)
            group.accounts[owner] = account
            self._count += 1
            if self._count > self._look_for_idle:
                self._forget_idle(account)
        return account

    def weight_of(self, kind: str, name: str) -> float:
        return self.weights.get((kind, name), 1.0)

    def weigh(self, weights: dict[tuple[str, str], float]) -> None:
        """These are the weights from now on; what was used before stays as it was counted."""
        self.weights = weights
        for project in self.projects.values():
            project.weight = self.weight_of("project", project.name)
            for account in project.accounts.values():
                account.weight = self.weight_of("user", account.name)

    # --- use ------------------------------------------------------------------------------------------

    def expected_s(self, socket: Any) -> float:
        """What a task of a socket takes, as far as is known."""
        mean = self._durations.of(socket)
        if mean is None:
            mean = self._durations.overall
        return _GUESS_S if mean is None else max(mean, 1e-6)

    def begin(self, account: Account, socket: Any, count: int, width: int) -> Charge:
        """So many tasks were granted: their account is charged with what they are expected to take."""
        account.granted += count
        amount = self.expected_s(socket) * count * width * self._unit
        self._charge(account, amount)
        return Charge(account, self.now, self._since, width, amount)

    def runs(self, charge: Charge, seconds: float) -> None:
        """Those of its tasks that run now have run for so long: more than was expected counts before they end."""
        amount = charge.width * self._worth(seconds) - self._amount(charge)
        if amount > 0:
            charge.amount += amount
            self._charge(charge.account, amount)

    def end(self, charge: Charge, count: int, of: int, took_s: float) -> None:
        """So many of the tasks of a grant are at no node any more, and took so many seconds together."""
        charge.account.granted -= count
        took_s = took_s if 0.0 <= took_s < float("inf") else 0.0
        expected = self._amount(charge) * count / of
        charge.amount -= expected
        self._charge(charge.account, charge.width * count * self._worth(took_s / count) - expected)

    def _worth(self, seconds: float) -> float:
        """What the last so many seconds count, the older ones less."""
        life = self._limits.share_half_life_s
        if seconds < _SHORT * life:
            return seconds * self._unit
        return self._unit * life / _LN2 * (1.0 - exp(-_LN2 * seconds / life))

    def _amount(self, charge: Charge) -> float:
        """What is charged still, in the unit of today."""
        if charge.since != self._since:
            charge.amount *= 2.0 ** ((charge.since - self._since) / self._limits.share_half_life_s)
            charge.since = self._since
        return charge.amount

    def used_s(self, share: Share) -> float:
        """Rank-seconds that count today."""
        return max(0.0, share.used / self._unit)

    def _charge(self, account: Account, amount: float) -> None:
        account.charge(amount)
        account.project.charge(amount)

    # --- order ----------------------------------------------------------------------------------------

    def joined(self, account: Account) -> None:
        """It has ready tasks in one more line."""
        project = account.project
        if not project.lines:
            self._bring_in_line(project, self.projects.values())
        if not account.lines:
            self._bring_in_line(account, project.accounts.values())
        project.lines += 1
        account.lines += 1

    def left(self, account: Account) -> None:
        account.project.lines -= 1
        account.lines -= 1

    def _bring_in_line(self, share: Share, all_: Iterable[Share]) -> None:
        others = [other for other in all_ if other.lines]
        if others:
            lead = self._limits.share_lead_s * max(self.ranks, 1) * self._unit
            last, first = min(others, key=_level), max(others, key=_level)
            share.level = max(share.level, last.level - lead / share.weight)
            share.level = min(share.level, first.level + lead / first.weight)

    def in_order(self, lines: list[_L]) -> list[tuple[_L, float]]:
        """Who goes first; and how many rank-seconds each may take at once, so that others have their turn.

        Cost: constant for one account, else in proportion to the accounts with ready tasks of this priority.
        """
        if len(lines) == 1:
            return [(lines[0], float("inf"))]
        ordered = sorted(lines, key=_rank)
        return [(line, self._ahead_s(line.account, ordered)) for line in ordered[:1]] + [
            (line, self._limits.share_turn_s) for line in ordered[1:]
        ]

    def _ahead_s(self, first: Account, ordered: Iterable[HasAccount]) -> float:
        """Rank-seconds that the first may take until another is to go first, and a turn."""
        gap = float("inf")
        for other in ordered:
            account = other.account
            if account is first:
                continue
            if account.project is first.project:
                gap = min(gap, (account.level - first.level) * first.weight)
            else:
                # in the order of the projects: no other comes before this one
                gap = min(gap, (account.project.level - first.project.level) * first.project.weight)
                break
        return gap / self._unit + self._limits.share_turn_s

    def before_s(self, own: Account, own_s: float, project_s: float, other: Account) -> float:
        """Rank-seconds that another account gets, at most, before so many of this one, and of its project."""
        unit = self._unit
        if other.project is own.project:
            gap = (own.level - other.level) / unit + own_s / own.weight
            weight = other.weight
        else:
            gap = (own.project.level - other.project.level) / unit + project_s / own.project.weight
            weight = other.project.weight
        return gap * weight + self._limits.share_turn_s if gap >= 0 else 0.0

    # --- helpers --------------------------------------------------------------------------------------

    def _next(self) -> int:
        self._made += 1
        return self._made

    def _forget_idle(self, keep: Account) -> None:
        """Names are made up by those who submit, and are not to fill the memory."""
        for project in list(self.projects.values()):
            for name, account in list(project.accounts.items()):
                idle = not (account.lines or account.granted or account is keep)
                if idle and self.used_s(account) < _IDLE_USED_S:
                    del project.accounts[name]
                    self._count -= 1
            if not project.accounts:
                del self.projects[project.name]
        self._look_for_idle = max(_IDLE_MAX, 2 * self._count)


def _level(share: Share) -> float:
    return share.level


def _rank(line: HasAccount) -> tuple[float, int, float, int]:
    return line.account.rank
