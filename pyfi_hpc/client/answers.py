"""Refusals and answers of the broker as values and as the errors that callers see."""

from __future__ import annotations

from typing import Any

import msgspec

from pyfi_hpc import errors
from pyfi_hpc.errors import NotFound, ProtocolError, PyfiError, RemoteProtocolError
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.limits import PROTOCOL_VERSION

_decode = msgspec.msgpack.Decoder().decode
encode_body = msgspec.msgpack.Encoder().encode

#: the stable name of each error class, as it travels
_BY_CODE: dict[str, type[PyfiError]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, PyfiError) and kind is not PyfiError
}
#: codes of the broker that name no class
_BY_CODE |= {"protocol": ProtocolError, "version": RemoteProtocolError, "job_closed": errors.Refused}


def error_of(code: str, what: str, where: str = "", fix: str = "") -> PyfiError:
    """The error class of this code; one of a newer broker that this client does not know is a PyfiError."""
    kind = _BY_CODE.get(code)
    if kind is None:
        return PyfiError(f"{what} ({code})" if code else what, where=where, fix=fix)
    return kind(what or None, where=where, fix=fix)


def answered(message: m.Answer) -> Any:
    """The value of an answer; raises the error that it carries."""
    try:
        body = _decode(message.body) if message.body else None
    except (msgspec.MsgspecError, ValueError) as error:
        raise RemoteProtocolError(f"malformed answer: {error}") from None
    if message.ok:
        return body
    fields = body if isinstance(body, dict) else {}
    code, what, where, fix = (str(fields.get(key) or "") for key in ("code", "what", "where", "fix"))
    raise error_of(code, what, where, fix)


def refused(message: m.Refused, socket: str) -> PyfiError:
    return error_of(message.code, message.what, f"a call of {socket}", message.fix)


def denied(message: m.Denied, where: str) -> PyfiError:
    """A connection that was turned away; a version that does not fit is told with both numbers."""
    if _BY_CODE.get(message.code, ProtocolError) in (ProtocolError, RemoteProtocolError):
        what = f"the broker turned this client away, which speaks protocol {PROTOCOL_VERSION}: {message.what}"
        fix = message.fix or "install the same version of pyfi_hpc on both sides"
        return RemoteProtocolError(what, where=where, fix=fix)
    return error_of(message.code, message.what, where, message.fix)


def not_found(job: int) -> NotFound:
    return NotFound(
        f"there is no job {job}",
        where="the ledger of this instance",
        fix="`pyfi ls calls` lists what there is",
    )
