"""Which SGX enclaves protect nothing (Intel SDM volume 3D, section 38.7.1, "ATTRIBUTES")."""

from securetf.errors import ConfigurationError
from securetf.evidence.sgx import SgxReport

_INIT, _DEBUG, _MODE64BIT = 1 << 0, 1 << 1, 1 << 2
_PROVISION_KEY, _EINITTOKEN_KEY, _CET, _KSS, _AEX_NOTIFY = 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 10
_KNOWN = _INIT | _DEBUG | _MODE64BIT | _PROVISION_KEY | _EINITTOKEN_KEY | _CET | _KSS | _AEX_NOTIFY


def check(body: SgxReport) -> None:
    """Refuse an enclave that its host can read, or that is no enclave yet.

    Raises:
        ConfigurationError: debug, not initialised, not 64 bit, or an unknown attribute bit.
    """
    flags = int.from_bytes(body.attributes[:8], "little")
    if flags & _DEBUG:
        raise ConfigurationError(
            "the enclave is in debug mode: its host reads its memory",
            "build and start the enclave without debug",
        )
    if not flags & _INIT:
        raise ConfigurationError(
            "the enclave is not initialised (INIT is clear)", "attest from a running enclave"
        )
    if not flags & _MODE64BIT:
        raise ConfigurationError("the enclave is not in 64-bit mode", "build the enclave for 64 bit")
    if flags & ~_KNOWN:
        raise ConfigurationError(
            f"enclave attributes {flags:#018x} have bits that this release does not know",
            "build the enclave without them, or use a release that knows them",
        )
