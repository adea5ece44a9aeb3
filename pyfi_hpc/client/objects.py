"""The objects that a script makes by name: processor, queue, socket. Making one that is there gets it.

processor = Processor(name="proc1", module="pkg.sample", gitrepo="https://git.example.org/group/repo")
do_something = Socket(name="proc1.socket1", processor=processor, task="do_something")
do_something("Hello World !")
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import msgspec

from pyfi_hpc.client import session as session_module
from pyfi_hpc.client.calls import Future
from pyfi_hpc.client.executor import submit_call
from pyfi_hpc.client.options import DEFAULT, Options
from pyfi_hpc.client.session import Session
from pyfi_hpc.client.structure import Step
from pyfi_hpc.errors import NotFound, UsageError


class Function:
    """A socket by its name, not asked for; calling it makes a step. Made by ``functions``."""

    def __init__(self, socket: str, options: Options = DEFAULT, session: Session | None = None) -> None:
        self.socket_name = socket
        self._options = options
        self._session = session

    def __call__(self, *args: Any, **kwargs: Any) -> Step:
        return Step(self.socket_name, args, kwargs, self._options, self._session)

    p = __call__

    def delay(self, *args: Any, **kwargs: Any) -> Future:
        """Call it now; a future."""
        session = self._session or session_module.current()
        return submit_call(session, self._options, self.socket_name, args, kwargs)

    def with_options(self, **options: Any) -> Function:
        """The same with ``retries``, ``time_limit``, ``priority``; see ``Executor.with_options``."""
        return Function(self.socket_name, self._options.but(**options), self._session)

    def __repr__(self) -> str:
        return f"<pyfi_hpc function {self.socket_name}>"


def functions(*names: str, instance: str | None = None) -> Any:
    """Functions that make steps of workflows: ``square, total = functions("hello.square", "hello.total")``.

    Parameters
    ----------
    *names : str
        Names of sockets, or ``module:function`` of deployed code. Nothing is asked or run.

    Returns
    -------
    Function or tuple of Function
        One for one name.
    """
    if not names or not all(isinstance(name, str) and name.strip() == name and name for name in names):
        raise UsageError("functions needs names of sockets", fix='functions("hello.square", "hello.total")')
    session = session_module.current(instance) if instance is not None else None
    made = tuple(Function(name, session=session) for name in names)
    return made[0] if len(made) == 1 else made


class _Named:
    """An object of the instance, got or made by its name."""

    kind = ""

    def __init__(self, name: str, instance: str | None, session: Session | None) -> None:
        if not isinstance(name, str) or not name:
            raise UsageError(f"a {self.kind} needs a name", fix=f'{self.kind.title()}(name="...")')
        self.name = name
        self._session = session or session_module.current(instance)
        self.fields: dict[str, Any] = {}

    @property
    def id(self) -> int:
        return int(self.fields.get("id", 0))

    def _find(self) -> bool:
        try:
            self.fields = dict(self._session.ask("get", {"kind": self.kind, "name": self.name}, repeat=True))
        except NotFound:
            return False
        return True

    def _get_or_add(self, values: dict[str, Any]) -> None:
        if not self._find():
            body = {"kind": self.kind, "values": {"name": self.name, **values}}
            self.fields = dict(self._session.ask("add", body))

    def __repr__(self) -> str:
        return f"<pyfi_hpc {self.kind} {self.name}>"


class Processor(_Named):
    """Deployed code: a repository at a commit, and a module.

    Parameters
    ----------
    name : str
    gitrepo : str, optional
        Address or path of the repository: its code is deployed if no processor of that name is there, or if
        ``commit`` is given. It takes as long as building the environment takes; nothing if it is there.
    module : str, optional
        Dotted name; else what the repository's ``pyfi.toml`` says.
    branch, commit : str, optional
        What is deployed; else the repository's HEAD.
    concurrency : int, optional
        Calls that may run at once in each of its sockets.

    Raises
    ------
    NotFound
        No such processor, and no ``gitrepo`` to make it from.
    CodeError
        The code could not be prepared; nothing was registered.
    """

    kind = "processor"

    def __init__(
        self, name: str, module: str | None = None, gitrepo: str | None = None, branch: str | None = None,
        commit: str | None = None, concurrency: int | None = None, *, instance: str | None = None,
        session: Session | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name, instance, session)
        known = self._find()
        if gitrepo is not None and (not known or commit is not None):
            self._deploy(gitrepo, module, commit or branch)
        elif not known:
            raise NotFound(
                f"there is no processor {name!r}", where="this instance",
                fix="give its gitrepo=, or deploy it with `pyfi deploy PATH`",
            )  # fmt: skip
        if concurrency is not None and self.fields.get("concurrency") != concurrency:
            body = {"kind": self.kind, "name": name, "values": {"concurrency": concurrency}}
            self.fields = dict(self._session.ask("update", body))

    def _deploy(self, gitrepo: str, module: str | None, revision: str | None) -> None:
        from pyfi_hpc.client.deploy import prepare, send_to_nodes  # git and installers: only who deploys needs them

        def permit(repository: str) -> None:
            self._session.ask("permit", {"repository": repository}, repeat=True)

        spec = prepare(
            self._session.settings, gitrepo, commit=revision, module=module, name=self.name, permit=permit
        )  # fmt: skip
        self._session.ask("deploy", msgspec.to_builtins(spec))
        for problem in send_to_nodes(self._session.settings, self._session.ask):
            warnings.warn(problem, stacklevel=4)
        self._find()


class Queue(_Named):
    """Where the tasks of sockets wait, in order."""

    kind = "queue"

    def __init__(
        self, name: str, *, priority: int = 0, instance: str | None = None, session: Session | None = None
    ) -> None:
        super().__init__(name, instance, session)
        self._get_or_add({"priority": priority})


class Socket(_Named):
    """The durable entry of one function, called by its name.

    ``socket(...)`` waits and gives the value, ``socket.delay(...)`` gives a future, ``socket.p(...)`` a step
    for ``pipeline`` and its kin: nothing runs until the structure does.

    Parameters
    ----------
    name : str
    processor : Processor or str, optional
        With ``task``: made if it is not there.
    queue : Queue, dict with a name, or str, optional
    task : str, optional
        The function's name in the processor's module.
    concurrency : int, optional
        Calls that may run at once.
    **options
        For its calls: ``retries``, ``time_limit``, ``priority``; see ``Executor.with_options``.

    Raises
    ------
    NotFound
        No such socket, and no processor and task to make it from.
    """

    kind = "socket"

    def __init__(
        self, name: str, processor: Processor | str | None = None, queue: Any = None, task: str | None = None,
        concurrency: int | None = None, *, instance: str | None = None, session: Session | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        if session is None and isinstance(processor, Processor):
            session = processor._session
        super().__init__(name, instance, session)
        self._options = DEFAULT.but(**options)
        if task is None and processor is None:
            if not self._find():
                raise NotFound(
                    f"there is no socket {name!r}", where="this instance",
                    fix="give processor= and task=, or deploy its code with `pyfi deploy PATH`",
                )  # fmt: skip
            return
        function = task or name.rpartition(".")[2]
        values: dict[str, Any] = {"processor": _name_of(processor), "function": function}
        if queue is not None:
            values["queue"] = Queue(_name_of(queue), session=self._session).name
        if concurrency is not None:
            values["concurrency"] = concurrency
        self._get_or_add(values)

    @property
    def socket_name(self) -> str:
        return self.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it and wait for the value; a broker that is silent for ``timeout_s`` raises."""
        return self.delay(*args, **kwargs).result()

    def delay(self, *args: Any, **kwargs: Any) -> Future:
        """Call it; a future with ``id``, ``status`` and ``get()``."""
        return submit_call(self._session, self._options, self.name, args, kwargs)

    def p(self, *args: Any, **kwargs: Any) -> Step:
        """A step: a call that has not been made."""
        return Step(self.name, args, kwargs, self._options, self._session)

    def with_options(self, **options: Any) -> Function:
        """A function of this socket with other options, whose calls are steps."""
        return Function(self.name, self._options.but(**options), self._session)


def _name_of(thing: Any) -> str:
    """The name of an object, of a dict with a name (the seeds' way), or the text itself."""
    name = thing.get("name") if isinstance(thing, Mapping) else getattr(thing, "name", thing)
    if not isinstance(name, str) or not name:
        raise UsageError(f"{thing!r:.80} has no name", fix="give an object, its name, or {'name': ...}")
    return name
