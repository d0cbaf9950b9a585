"""What differs between SGX and TDX in the verification of a DCAP quote, as one value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from securetf.evidence.dcap import DcapQuote
from securetf.verifier.dcap_levels import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """One parsed quote, and how collateral for its TEE is named and compared.

    canonical: the whole quote without padding. signed: header and body. tcb_info_id, qe_identity_id: `id`
    of the two documents. check_platform: CPUSVN and PCESVN of the PCK and TCB info; raises TcbError.
    check_module: TCB info; raises EndorsementError or TcbError. check_configuration: raises
    ConfigurationError.
    """

    quote: DcapQuote
    canonical: bytes
    signed: bytes
    tcb_info_id: str
    qe_identity_id: str
    check_platform: Callable[[Sequence[int], int, Document], None]
    check_module: Callable[[Document], None]
    check_configuration: Callable[[], None]
