"""What a verifier keeps of the platforms that it has seen, so that equal bytes are read once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from securetf.endorsements import TrustAnchors
from securetf.verifier import pck

_CHAINS = 256  # PCK chains, one per platform
_SIGNERS = 32  # issuer chains of collateral


@dataclass(frozen=True, slots=True)
class Known:
    """`pck.parse_chain` and `pck.check_signer_chain`, each with a bounded memory. Thread-safe.

    Both are pure functions of bytes and pins: no time, quote or signature over a quote is in them, refusals
    are not kept, and forgetting all of it changes no answer.
    """

    parse_chain: Callable[[bytes, TrustAnchors], pck.Chain] = field(
        default_factory=lambda: lru_cache(_CHAINS)(pck.parse_chain)
    )
    check_signer_chain: Callable[[str, str, TrustAnchors], None] = field(
        default_factory=lambda: lru_cache(_SIGNERS)(pck.check_signer_chain)
    )
