"""What the verifiers' steps share: their number on an error, for whoever shows the list of checks; the
binding.
"""

import hmac
from collections.abc import Iterator
from contextlib import contextmanager

from securetf.errors import BindingError, EvidenceError


@contextmanager
def step(number: int) -> Iterator[None]:
    """Note `number` on an `EvidenceError` that leaves the block, unless an inner step has."""
    try:
        yield
    except EvidenceError as error:
        error.step = error.step or number
        raise


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
