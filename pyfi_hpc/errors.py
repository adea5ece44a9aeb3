"""Every error that leaves this package.

The docstring of a class is its default message and ends with what to do. The tree::

    PyfiError
      UsageError         SettingsError  FlowError  UnknownSocket  Unserialisable  TooLarge  NotFound  Refused
      TransientError     BrokerUnreachable  LedgerUnavailable  SlurmBusy  PbsBusy
      TaskError          TaskFailed  TaskTimeout  TaskCancelled  TaskSkipped  TaskLost
      ProtocolError      LocalProtocolError  RemoteProtocolError
      CodeError          RepositoryRefused  CloneFailed  EnvironmentFailed  ModuleFailed  DirtyTree
      Fenced             StaleAttempt  StaleEpoch  BrokerHeld
      SiteError          PostgresMissing  MpiMissing  SlurmMissing  SlurmRefused  HostUnreachable  HostKeyRefused
                         LoginRefused  PbsMissing  PbsRefused

``transient`` tells whether trying the same thing again can help. ``exit_code`` is what the command
line ends with. All errors survive pickling.
"""

from __future__ import annotations

import inspect
from typing import Any


class PyfiError(Exception):
    """Something went wrong in pyfi_hpc."""

    transient = False
    exit_code = 1
    #: stable name of the error for ``--json``
    code: str = "error"

    def __init__(self, what: str | None = None, *, where: str = "", fix: str = "") -> None:
        self.what = what or inspect.cleandoc(type(self).__doc__ or type(self).__name__).split("\n\n")[0]
        self.where = where
        self.fix = fix
        super().__init__(self.what)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.code = "".join("_" + c.lower() if c.isupper() else c for c in cls.__name__).lstrip("_")

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.__dict__.copy())


def _rebuild(cls: type[PyfiError], state: dict[str, Any]) -> PyfiError:
    error = cls.__new__(cls)
    error.__dict__.update(state)
    error.args = (state.get("what", ""),)
    return error


def from_code(code: str, what: str, where: str = "", fix: str = "") -> PyfiError:
    """An error that another process told by its stable name; an unknown name gives a PyfiError that shows it."""
    kinds = [PyfiError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        if kind.code == code and kind is not PyfiError:
            return kind(what or None, where=where, fix=fix)
    return PyfiError(f"{what} ({code})" if code else what, where=where, fix=fix)


# --- the caller asked for something that cannot be: trying again does not help ---------------------


class UsageError(PyfiError):
    """The request itself is wrong; correct it."""

    exit_code = 2


class SettingsError(UsageError):
    """A setting has a wrong value; see ``pyfi info --settings`` for each value and its origin."""


class FlowError(UsageError):
    """The structure of the workflow is wrong; correct the named step."""


class Unserialisable(UsageError):
    """The value cannot be sent; send numbers, text, bytes, lists, dicts, dates or numpy arrays."""


class TooLarge(UsageError):
    """The value is over the size limit; pass a path to a file on a shared filesystem instead."""


class Unsatisfiable(UsageError):
    """No node that is here, or was, could ever give what the call needs; the text names the one that comes nearest."""

    exit_code = 5


class NotFound(UsageError):
    """There is no such object; ``pyfi ls`` lists what there is."""

    exit_code = 3


class UnknownSocket(NotFound):
    """There is no such socket; deploy its code with ``pyfi deploy``."""


class Refused(PyfiError):
    """You may not do this; ask the owner of the instance."""

    exit_code = 5


# --- the world is not ready: trying again helps -----------------------------------------------------


class TransientError(PyfiError):
    """Not possible now; try again later."""

    transient = True
    exit_code = 4


class BrokerUnreachable(TransientError):
    """No broker answers; start one with ``pyfi up`` or look at ``pyfi info``."""


class LedgerUnavailable(TransientError):
    """The ledger's Postgres does not answer; nothing was accepted. Try again, or see ``pyfi doctor``."""


class SlurmBusy(TransientError):
    """Slurm does not answer in time; try again later."""

    exit_code = 6


class PbsBusy(TransientError):
    """PBS does not answer in time; try again later."""

    exit_code = 6


# --- a task did not complete ------------------------------------------------------------------------


class TaskError(PyfiError):
    """The task did not complete; ``pyfi ls call --id ID`` shows every attempt.

    Attributes
    ----------
    task : str
        The id of the task, ``J.i``.
    others : list of TaskError
        Further failures of the same structure, in order.
    """

    def __init__(self, what: str | None = None, *, task: str = "", where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.task = task
        self.others: list[BaseException] = []


class TaskFailed(TaskError):
    """The function raised, or its process died each time.

    Attributes
    ----------
    type_name : str
        The exception's type as the function's side names it.
    traceback_text : str
        The traceback on the rank.
    """

    def __init__(
        self, what: str | None = None, *, type_name: str = "", traceback_text: str = "", task: str = "",
        where: str = "", fix: str = "",
    ) -> None:
        super().__init__(what, task=task, where=where, fix=fix)
        self.type_name = type_name
        self.traceback_text = traceback_text


class TaskTimeout(TaskError, TimeoutError):
    """The task ran over its time limit and was ended; raise the limit or make the task smaller."""


class TaskCancelled(TaskError):
    """The task was cancelled; submit it again if its result is needed."""


class TaskSkipped(TaskError):
    """The task never ran because one that it depends on failed; see the cause."""


class TaskLost(TaskError):
    """The processes of this task died too often; it is not tried again."""


# --- the peers disagree -----------------------------------------------------------------------------


class ProtocolError(PyfiError):
    """The peers do not agree on the protocol; use the same version of pyfi_hpc on both sides."""


class LocalProtocolError(ProtocolError):
    """This side used the protocol wrongly; this is a bug, please report it."""


class RemoteProtocolError(ProtocolError):
    """The other side sent something that is not in the protocol; check its version."""


# --- code and its environments ----------------------------------------------------------------------


class CodeError(PyfiError):
    """The code could not be prepared."""


class RepositoryRefused(CodeError):
    """The repository is not on the allow list; ask the owner of the instance to add it."""

    exit_code = 5


class CloneFailed(CodeError):
    """git could not fetch the repository; check its address and your access to it."""


class DirtyTree(CodeError):
    """The working tree has changes that are not committed; commit them or say ``--allow-dirty``."""

    exit_code = 2


class EnvironmentFailed(CodeError):
    """The installer could not build the environment; its last lines tell why."""


class ModuleFailed(CodeError):
    """The module cannot be imported or has no such function; correct its name."""

    exit_code = 3


# --- a newer incarnation exists ---------------------------------------------------------------------


class Fenced(PyfiError):
    """A newer incarnation has taken over; this one must stop."""


class StaleAttempt(Fenced):
    """Another attempt of this task holds the grant; this outcome does not count."""


class StaleEpoch(Fenced):
    """A newer broker has taken over this ledger; this one must stop."""


class BrokerHeld(Fenced):
    """Another broker holds this ledger; stop it first with ``pyfi down``."""

    exit_code = 5


# --- the site lacks something -----------------------------------------------------------------------


class SiteError(PyfiError):
    """Something that this command needs is missing on this machine; see ``pyfi doctor``."""

    exit_code = 6


class PostgresMissing(SiteError):
    """No PostgreSQL programs found; ``pip install 'pyfi_hpc[pg]'`` or load your site's module."""


class MpiMissing(SiteError):
    """No MPI launcher found; ``pip install 'pyfi_hpc[mpi]'`` or load your site's module."""


class SlurmMissing(SiteError):
    """No Slurm commands found; run this on a login node of a Slurm cluster."""


class SlurmRefused(SiteError):
    """Slurm refused the request; its own words follow."""


class HostUnreachable(SiteError):
    """The host does not answer over ssh, or the connection to it broke; try again when ``ssh HOST true`` works."""

    transient = True


class HostKeyRefused(SiteError):
    """The host's key is not the known one; nothing was sent. Compare it with what its administrator says."""


class LoginRefused(SiteError):
    """The host does not let this user in; see that ``ssh HOST true`` works."""


class PbsMissing(SiteError):
    """No PBS commands found; run this on a login node of a PBS cluster."""


class PbsRefused(SiteError):
    """PBS refused the request; its own words follow."""
