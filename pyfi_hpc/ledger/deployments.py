"""Deploying: from a DeploymentSpec to rows. What the broker knows of them is read in ``catalogue.py``.

A new commit is a new row of ``code``; batches name the row that they were accepted under, so that tasks in
the queue run the code that they were meant for. A socket whose function the new commit lacks stays, disabled
and with status "missing": plugs, history and queued tasks refer to it, and the next commit may bring the
function back.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pyfi_hpc.errors import UsageError
from pyfi_hpc.ledger import registry
from pyfi_hpc.ledger.models import Argument, Code, Function, Processor, Queue, Socket
from pyfi_hpc.model.deployment import CodeSpec, DeploymentSpec

#: of a socket whose function the code has lost; such a one is disabled, see ``catalogue.sql``
MISSING = "missing"


def deploy(session: Session, spec: DeploymentSpec, owner: str) -> dict[str, Any]:
    """Register a processor, its code and one socket per function. Equal code deployed again changes nothing.

    Returns
    -------
    dict
        processor, code (number of the version), commit, changed, sockets, missing (sockets without function).

    Raises
    ------
    Refused
        The processor belongs to somebody else.
    UsageError
        A socket's name belongs to another processor.
    """
    processor = session.scalar(sa.select(Processor).where(Processor.name == spec.name).with_for_update())
    if processor is None:
        processor = Processor(name=spec.name, owner=owner)
        session.add(processor)
    registry.check_owner(processor, "processor", owner)
    processor.repository, processor.module = spec.code.repository, spec.code.module
    processor.status, processor.enabled = "ready", True
    session.flush()
    code = _code(session, processor, spec.code, owner)
    changed = processor.code_id != code.id
    processor.code_id = code.id
    for socket in spec.sockets:
        _socket(session, processor, socket.name, socket.function, socket.parameters, owner)
    gone = _retire(session, processor, {socket.name for socket in spec.sockets})
    if changed:
        registry.note(session, "deployed", "processor", processor, owner, f"{code.repository} {code.commit}")
    session.flush()
    return {
        "processor": processor.name, "code": code.id, "commit": code.commit, "changed": changed,
        "sockets": [socket.name for socket in spec.sockets], "missing": gone,
    }  # fmt: skip


def _code(session: Session, processor: Processor, spec: CodeSpec, owner: str) -> Code:
    """The row of this version: equal in all columns is the same version."""
    fields = {name: getattr(spec, name) for name in spec.__struct_fields__}
    same = sa.select(Code).where(
        Code.processor_id == processor.id, *(getattr(Code, name) == value for name, value in fields.items())
    )
    code = session.scalar(same.order_by(Code.id.desc()).limit(1))
    if code is None:
        code = Code(processor_id=processor.id, owner=owner, **fields)
        session.add(code)
        session.flush()
    return code


def _socket(
    session: Session, processor: Processor, name: str, function_name: str, parameters: list[str], owner: str
) -> None:
    function = session.scalar(sa.select(Function).where(Function.name == name))
    if function is None:
        function = Function(name=name, owner=owner, processor_id=processor.id)
        session.add(function)
    elif function.processor_id != processor.id:
        raise UsageError(f"the name {name!r} belongs to another processor", fix="deploy under another name (--name)")
    function.module, function.function, function.status = processor.module, function_name, "ready"
    session.flush()
    _arguments(session, function, parameters, owner)
    socket = session.scalar(sa.select(Socket).where(Socket.name == name))
    if socket is None:
        queue = session.scalar(sa.select(Queue).where(Queue.name == name)) or Queue(name=name, owner=owner)
        session.add(queue)
        session.flush()
        session.add(
            Socket(name=name, owner=owner, processor_id=processor.id, function_id=function.id, queue_id=queue.id)
        )
        return
    socket.processor_id, socket.function_id = processor.id, function.id
    if socket.status == MISSING:
        socket.status, socket.enabled = "ready", True


def _arguments(session: Session, function: Function, parameters: list[str], owner: str) -> None:
    """The parameters of a function in order; those that it has no more go."""
    known = {a.name: a for a in session.scalars(sa.select(Argument).where(Argument.function_id == function.id))}
    for position, parameter in enumerate(parameters):
        name = f"{function.name}.{parameter}"
        argument = known.pop(name, None)
        if argument is None:
            argument = Argument(name=name, owner=owner, function_id=function.id)
            session.add(argument)
        argument.position = position
        argument.kind = "**" if parameter.startswith("**") else "*" if parameter.startswith("*") else ""
    for argument in known.values():
        session.delete(argument)


def _retire(session: Session, processor: Processor, present: set[str]) -> list[str]:
    """Disable sockets whose function the code has no more; those added by hand are left alone."""
    gone = []
    for socket in session.scalars(sa.select(Socket).where(Socket.processor_id == processor.id)):
        by_deploy = socket.name.startswith(f"{processor.name}.")
        if by_deploy and socket.name not in present and socket.status != MISSING:
            socket.status, socket.enabled = MISSING, False
            gone.append(socket.name)
    return sorted(gone)
