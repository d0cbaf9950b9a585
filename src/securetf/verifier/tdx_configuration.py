"""Which TD configurations protect nothing (Intel TDX Module ABI specification, "ATTRIBUTES")."""

from securetf.errors import ConfigurationError
from securetf.evidence.tdx import TdReport

_DEBUG = 1 << 0
_SEPT_VE_DISABLE = 1 << 28
_MIGRATABLE = 1 << 29
_PROTECTION_KEYS, _KEY_LOCKER, _PERFMON = 1 << 30, 1 << 31, 1 << 63
_KNOWN = _DEBUG | _SEPT_VE_DISABLE | _MIGRATABLE | _PROTECTION_KEYS | _KEY_LOCKER | _PERFMON


def check(body: TdReport) -> None:
    """Refuse a TD that its host can read, move or interrupt unseen.

    Raises:
        ConfigurationError: debug, migratable, SEPT_VE_DISABLE clear, an unknown attribute bit, or a service
        TD.
    """
    attributes = int.from_bytes(body.td_attributes, "little")
    if attributes & _DEBUG:
        raise ConfigurationError(
            "the TD is in debug mode: its host reads its memory", "start the TD without debug"
        )
    if attributes & _MIGRATABLE:
        raise ConfigurationError("the TD is migratable", "start the TD without migration")
    if attributes & ~_KNOWN:
        raise ConfigurationError(
            f"TD attributes {attributes:#018x} have bits that this release does not know",
            "start the TD without them, or use a release that knows them",
        )
    if not attributes & _SEPT_VE_DISABLE:
        raise ConfigurationError(
            "SEPT_VE_DISABLE is clear: the host can inject page faults", "start the TD with sept-ve-disable"
        )
    if body.mr_service_td is not None and any(body.mr_service_td):
        raise ConfigurationError(
            "a service TD is bound to the TD (MR_SERVICETD is not zero)", "start the TD without a service TD"
        )
