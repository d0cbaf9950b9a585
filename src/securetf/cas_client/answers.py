"""Answers of a CAS: a message of the expected kind, or the error that it stands for."""

from typing import TypeVar

from securetf import errors
from securetf.endorsements import refusals  # noqa: F401  (puts its errors into the tree: a CAS gives them)
from securetf.errors import CasProtocolError, CasUnreachableError, LimitError, SecuretfError, UsageError
from securetf.wire import ErrorDocument, decode
from securetf.wire.messages import Message

_M = TypeVar("_M", bound=Message)
_BUSY = 503


def decode_answer(raw: bytes, kind: type[_M]) -> _M:
    """Read an answer of the CAS. Raises CasProtocolError when it is not of this kind."""
    try:
        return decode(raw, kind)
    except (UsageError, LimitError) as error:
        raise CasProtocolError(
            f"the CAS's answer is not of the expected form: {error.problem}",
            "use the same release on both sides",
        ) from None


def refusal_of(status: int, raw: bytes) -> SecuretfError:
    """Return the error that an error document stands for, as the class of its code."""
    if status == _BUSY and not raw.startswith(b'{"code"'):
        return CasUnreachableError("the CAS has too many connections", "try again in a moment")
    document = decode_answer(raw, ErrorDocument)
    return errors.by_code().get(document.code, SecuretfError)(document.problem, document.fix)
