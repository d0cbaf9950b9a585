"""Keys that AMD's firmware derives for an SEV-SNP guest: `/dev/sev-guest`, one ioctl.

Sources: Linux `include/uapi/linux/sev-guest.h` (SNP_GET_DERIVED_KEY); AMD 56860, MSG_KEY_REQ and MSG_KEY_RSP.
Little endian.
"""

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from securetf.attester import Attester
from securetf.attester.detection import SEV_GUEST
from securetf.attester.sealing import differing, wipe
from securetf.claims import REPORT_DATA_SIZE, Platform
from securetf.errors import AttesterError
from securetf.evidence import sev_snp

KEY_SIZE = 32  # bytes
# GUEST_FIELD_SELECT. Neither policy nor measurement can be left out: a guest that its host may debug has the
# same measurement, and any other guest of this chip the same policy.
_ALWAYS = {"guest_policy": 1 << 0, "measurement": 1 << 3, "tcb_version": 1 << 5}
CHOOSABLE = {"image_id": 1 << 1, "family_id": 1 << 2, "guest_svn": 1 << 4}
_FIELDS = _ALWAYS | CHOOSABLE
_VCEK = 0  # ROOT_KEY_SELECT
_REQUEST = struct.Struct("<IIQIIQ")  # root key, reserved, fields, VMPL, guest SVN, TCB version
_REQUEST_ROOM = 64  # bytes; a later kernel may read more fields, which are zero
_ANSWER_SIZE = 64  # bytes: status (4), reserved (28), key (32)
_MESSAGE = struct.Struct("<B7xQQQ")  # message version, addresses of request and answer, error
_IOCTL = 0xC0205301  # _IOWR('S', 1, struct snp_guest_request_ioctl)
_COMMITTED_TCB = slice(0x1E0, 0x1E8)  # of a report
_FIX = "run this as root in an SEV-SNP guest whose kernel has the sev-guest driver, at the guest's own VMPL"

Exchange = Callable[[bytes], bytearray]  # one MSG_KEY_REQ in, one MSG_KEY_RSP out; the caller wipes it


class SnpSealingKey:
    """`sealing.TeeKey`: of this chip and measurement, policy, VMPL, and firmware no older than at the
    sealing.
    """

    platform = Platform.SEV_SNP

    def __init__(self, attester: Attester, exchange: Exchange, more: tuple[str, ...] = ()) -> None:
        """attester: of this guest, SEV-SNP. exchange: `device(path)` in a guest. more: of `CHOOSABLE`, what
        the key depends on besides.
        """
        self._attester, self._exchange = attester, exchange
        self._names = (*_ALWAYS, *more)

    def bound_to(self) -> dict[str, str]:
        """As `TeeKey.bound_to`, from a report of this guest."""
        raw = self._attester.attest(os.urandom(REPORT_DATA_SIZE)).raw[: sev_snp.REPORT_SIZE]
        report = sev_snp.parse(raw)
        found = {
            "guest_policy": f"{report.policy:#x}",
            "measurement": report.measurement.hex(),
            "tcb_version": raw[_COMMITTED_TCB].hex(),
            "image_id": report.image_id.hex(),
            "family_id": report.family_id.hex(),
            "guest_svn": str(report.guest_svn),
        }
        return {"vmpl": str(report.vmpl)} | {name: found[name] for name in self._names}

    def differences(self, then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
        """As `TeeKey.differences`. Newer firmware gives the keys of older, a higher SVN those of lower."""
        found = [
            one for name in now if name not in {"tcb_version", "guest_svn"}
            for one in differing(then, now, name)
        ]  # fmt: skip
        # Each byte of TCB_VERSION is one component's version, or reserved.
        versions = zip(_tcb(now["tcb_version"]), _tcb(then["tcb_version"]), strict=True)
        if any(current < sealed for current, sealed in versions):
            found += differing(then, now, "tcb_version")
        if "guest_svn" in now and int(now["guest_svn"]) < _number(then["guest_svn"], 4):
            found += differing(then, now, "guest_svn")
        return found

    def derive(self, bound_to: Mapping[str, str]) -> bytearray:
        """As `TeeKey.derive`."""
        selected = sum(_FIELDS[name] for name in self._names)
        svn, tcb = _number(bound_to.get("guest_svn", "0"), 4), _tcb(bound_to["tcb_version"])
        vmpl = _number(bound_to["vmpl"], 4)
        answer = self._exchange(_REQUEST.pack(_VCEK, 0, selected, vmpl, svn, int.from_bytes(tcb, "little")))
        try:
            status = int.from_bytes(answer[:4], "little")
            if len(answer) != _ANSWER_SIZE or status:
                raise AttesterError(
                    f"the firmware derived no key: status {status:#x}, {len(answer)} bytes", _FIX
                )
            return answer[_ANSWER_SIZE - KEY_SIZE :]
        finally:
            wipe(answer)


def device(path: Path = SEV_GUEST) -> Exchange:
    """Return the exchange with the firmware behind a device file; it is opened for each request."""

    def exchange(request: bytes) -> bytearray:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise AttesterError(f"{path} cannot be opened: {error.strerror}", _FIX) from None
        try:
            return _ioctl(descriptor, path, request)
        finally:
            os.close(descriptor)

    return exchange


def _ioctl(descriptor: int, path: Path, request: bytes) -> bytearray:
    question = ctypes.create_string_buffer(request, _REQUEST_ROOM)
    answer = (ctypes.c_ubyte * _ANSWER_SIZE)()
    message = bytearray(_MESSAGE.pack(1, ctypes.addressof(question), ctypes.addressof(answer), 0))
    try:
        fcntl.ioctl(descriptor, _IOCTL, message)
        return bytearray(answer)
    except OSError as error:
        firmware = _MESSAGE.unpack(message)[3]
        raise AttesterError(
            f"{path} derived no key: {error.strerror}, firmware error {firmware:#x}", _FIX
        ) from None
    finally:
        ctypes.memset(answer, 0, _ANSWER_SIZE)


def _tcb(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != 8:
        raise AttesterError(f"TCB version {text!r} is not 8 bytes in hex", "restore the file from a backup")
    return raw


def _number(text: str, size: int) -> int:
    if not (text.isdigit() and len(text) <= 10 and int(text) < 1 << 8 * size):
        raise AttesterError(f"{text!r} is not a number of {size} bytes", "restore the file from a backup")
    return int(text)
