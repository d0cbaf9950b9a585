"""What a verifier keeps of the platforms that it has seen, so that equal bytes are read once."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

import dcap_qvl

from securetf.endorsements import Endorsements, TrustAnchors
from securetf.endorsements.dcap import strict_json
from securetf.verifier import pck

_CHAINS = 256  # PCK chains, one per platform
_SIGNERS = 32  # issuer chains of collateral
_COLLATERAL = 64  # sets of collateral, some 100 KB each as parsed
_NAMES = tuple(entry.name for entry in fields(Endorsements))


def _read_collateral(endorsements: Endorsements) -> Any:
    return dcap_qvl.QuoteCollateralV3(**{name: getattr(endorsements, name) for name in _NAMES})


@dataclass(frozen=True, slots=True)
class Known:
    """`pck.parse_chain`, `pck.check_signer_chain`, `dcap.strict_json`, and what dcap-qvl reads collateral
    into, each with a bounded memory. Thread-safe. Nobody changes what they return.

    All are pure functions of bytes and pins: no time, quote or signature over a quote is in them, refusals
    are not kept, and forgetting all of it changes no answer.
    """

    parse_chain: Callable[[bytes, TrustAnchors], pck.Chain] = field(
        default_factory=lambda: lru_cache(_CHAINS)(pck.parse_chain)
    )
    check_signer_chain: Callable[[str, str, TrustAnchors], None] = field(
        default_factory=lambda: lru_cache(_SIGNERS)(pck.check_signer_chain)
    )
    read_collateral: Callable[[Endorsements], Any] = field(
        default_factory=lambda: lru_cache(_COLLATERAL)(_read_collateral)
    )
    read_document: Callable[[str, str], Any] = field(
        default_factory=lambda: lru_cache(2 * _COLLATERAL)(strict_json)
    )
