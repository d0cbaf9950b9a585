"""What the verifiers' steps share: their number on an error, for whoever shows the list of checks; the
binding.
"""

import hmac

from securetf.errors import BindingError, EvidenceError


class step:  # noqa: N801  (read as a statement: `with step(2):`)
    """Note `number` on an `EvidenceError` that leaves the block, unless an inner step has."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, EvidenceError):
            error.step = error.step or self._number


def check_report_data(found: bytes, expected: bytes) -> None:
    """Check the 64 bytes that the attester chose.

    Raises:
        BindingError: they are not the expected ones.
    """
    if not hmac.compare_digest(found, expected):
        raise BindingError(
            "the report data is not the digest of this nonce, these keys and this CAS",
            "attest again with a new challenge; if it persists, something relays between you and the CAS",
        )
