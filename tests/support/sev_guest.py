"""The firmware behind `/dev/sev-guest`, as far as it derives keys: the kernel's structures, byte for byte.

Which inputs count, and what is refused, as AMD 56860 says of MSG_KEY_REQ; the derivation itself is ours.
"""

import ctypes
import errno
import hashlib
import os
import struct
from dataclasses import dataclass, replace
from typing import Any

import pytest

from securetf.attester import sev_snp_sealing
from securetf.claims import Evidence, Platform
from securetf.evidence.sev_snp import SnpTcb
from support.snp_platform import Platform as Chip

SNP_GET_DERIVED_KEY = 0xC0205301
INVALID_PARAMETER = 0x16
_CHIP = Chip()


@dataclass(frozen=True)
class Guest:
    """One guest on one chip; a test changes one thing. `secret` stands for the chip's fused one."""

    secret: bytes = b"this chip"
    policy: int = 1 << 17 | 0x1F
    measurement: bytes = b"\1" * 48
    image_id: bytes = bytes(16)
    family_id: bytes = bytes(16)
    guest_svn: int = 2
    vmpl: int = 0
    committed_tcb: SnpTcb = _CHIP.tcb

    platform = Platform.SEV_SNP

    def attest(self, report_data: bytes) -> Evidence:
        """As `Attester.attest`."""
        return Evidence(Platform.SEV_SNP, self.report(report_data))

    def report(self, report_data: bytes) -> bytes:
        """Return a report of this guest."""
        names = ("policy", "measurement", "image_id", "family_id", "guest_svn", "vmpl", "committed_tcb")
        return _CHIP.signed(report_data=report_data, **{name: getattr(self, name) for name in names})

    def but(self, **changes: Any) -> "Guest":
        """Return another guest."""
        return replace(self, **changes)

    def answer(self, request: bytes) -> bytes:
        """Return MSG_KEY_RSP (64 bytes) to MSG_KEY_REQ (32 bytes)."""
        root, reserved, fields, vmpl, svn, tcb = struct.unpack("<IIQIIQ", request)
        committed = self.report(bytes(64))[0x1E0:0x1E8]
        wanted = tcb.to_bytes(8, "little")
        newer = any(one > other for one, other in zip(wanted, committed, strict=True))
        if root or reserved or fields >> 6 or vmpl < self.vmpl or svn > self.guest_svn or newer:
            return INVALID_PARAMETER.to_bytes(4, "little") + bytes(60)
        mixed = (
            (1, self.policy.to_bytes(8, "little")),
            (2, self.image_id),
            (4, self.family_id),
            (8, self.measurement),
            (16, svn.to_bytes(4, "little")),
            (32, wanted),
        )
        parts = [self.secret, fields.to_bytes(8, "little"), vmpl.to_bytes(4, "little")]
        parts += [value for bit, value in mixed if fields & bit]
        return bytes(32) + hashlib.sha256(b"".join(parts)).digest()

    def ioctl(self, descriptor: int, code: int, message: bytearray) -> int:
        """As the kernel: struct snp_guest_request_ioctl, whose addresses are this process's."""
        os.fstat(descriptor)
        assert (code, len(message), code >> 16 & 0x3FFF) == (SNP_GET_DERIVED_KEY, 32, 32)
        version, request, answer, _ = struct.unpack("<B7xQQQ", message)
        if version != 1:
            message[24:] = (0x17).to_bytes(8, "little")
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        ctypes.memmove(answer, self.answer(ctypes.string_at(request, 32)), 64)
        return 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have `sev_snp_sealing.device` meet this firmware, behind any file."""
        monkeypatch.setattr(sev_snp_sealing.fcntl, "ioctl", self.ioctl)
