"""An Azure confidential VM in software: HCL report, runtime data and quote, to be changed in one place."""

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.errors import BindingError
from securetf.evidence import azure_vtpm, tpm2, tpm2_quote
from securetf.evidence.tpm2_quote import Quote
from support.tpm2 import REPORT_DATA, sign

PCRS = {index: bytes([index]) * 32 for index in range(24)}


def text(raw: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@dataclass(frozen=True)
class Machine:
    """A vTPM's key. The hardware report is 1184 bytes that start with the hash of the runtime data."""

    key: rsa.RSAPrivateKey

    def runtime(self, **changes: Any) -> dict[str, Any]:
        numbers = self.key.public_key().public_numbers()
        ak = {"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": "AQAB"}
        ak["n"] = text(numbers.n.to_bytes(256, "big"))
        return {"keys": [ak], "vm-configuration": {"secure-boot": True}} | changes

    def hcl(self, runtime: bytes | None = None, *, kind: int = azure_vtpm.TDX, **header: int) -> bytes:
        raw = json.dumps(self.runtime()).encode() if runtime is None else runtime
        hardware = hashlib.sha256(raw).digest().ljust(azure_vtpm.HARDWARE_REPORT_SIZE, b"\0")
        values = {"version": 2, "size": 1236 + len(raw), "request": 2, "status": 0, "reserved": 0}
        values |= {
            "data_size": 20 + len(raw),
            "data_version": 1,
            "kind": kind,
            "digest": 1,
            "variable": len(raw),
        }
        values |= header

        def number(name: str) -> bytes:
            return values[name].to_bytes(4, "little")

        head = (
            b"HCLA" + b"".join(map(number, ("version", "size", "request", "status", "reserved"))) + bytes(8)
        )
        data = b"".join(map(number, ("data_size", "data_version", "kind", "digest", "variable")))
        return head + hardware + data + raw + bytes(100)

    def quote(self, **changes: Any) -> Quote:
        whole = b"".join(PCRS.values())
        values: dict[str, Any] = {
            "qualified_signer": b"",
            "extra_data": tpm2.qualifying_data(REPORT_DATA),
            "clock": 1,
            "reset_count": 2,
            "restart_count": 3,
            "safe": True,
            "firmware": 4,
            "bank": tpm2_quote.SHA256,
            "selection": tuple(PCRS),
            "pcr_digest": hashlib.sha256(whole).digest(),
        }
        return Quote(**values | changes)

    def envelope(
        self, hcl: bytes | None = None, quote: Quote | None = None, **changes: Any
    ) -> dict[str, Any]:
        quote = quote or self.quote()
        signed = {
            "signature": sign(self.key, quote).parts[0].hex(),
            "message": tpm2_quote.encode_quote(quote).hex(),
            "pcrs": [value.hex() for value in PCRS.values()],
        }
        report = text(self.hcl() if hcl is None else hcl)
        whole = {"version": 1, "tpm_quote": signed, "hcl_report": report, "td_quote": text(b"the TD quote")}
        return whole | changes


class Hardware:
    """Stands for the hardware's verifier: accepts one quote and the report data that `expected` names."""

    def __init__(self, expected: bytes) -> None:
        self.expected = expected

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        assert evidence == Evidence(Platform.TDX, b"the TD quote")
        if expected_report_data != self.expected:
            raise BindingError("the report data is not the hash of the runtime data", "")
        return VerifiedClaims(
            platform=Platform.TDX,
            registers={"mr_td": b"\7" * 48},
            report_data=expected_report_data,
            tcb_status="UpToDate",
            advisories=("INTEL-SA-1",),
            tcb_evaluation_number=18,
            platform_id=b"ppid",
            valid_until=now + timedelta(hours=1),
            simulated=False,
        )
