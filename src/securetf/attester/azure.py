"""Makes Evidence on Azure confidential VMs: the paravisor's report from the vTPM, a quote by the key that it
vouches for, and what certifies the hardware, from the machine's metadata service.

Sources: Microsoft, "Guest attestation for confidential VMs" (NV index, handle); azure-cvm-tooling, `imds`
(THIM's certificates for SEV-SNP, the quoting service for TDX). The form is 1 (docs/platforms.md).
"""

import base64
import binascii
import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from securetf.attester.tpm2 import QUOTED_PCRS, consistent_quote
from securetf.attester.tpm_client import TpmClient
from securetf.attester.tpm_counter import read_all
from securetf.claims import REPORT_DATA_SIZE, Evidence, Platform
from securetf.errors import AttesterError, MalformedEvidenceError
from securetf.evidence import azure_vtpm, tpm2, tpm2_quote

HCL_REPORT = 0x01400001  # NV index
ATTESTATION_KEY = 0x81000003  # persistent handle
TD_REPORT_SIZE = 1024  # bytes

_THIM, _TD_QUOTE = "/metadata/THIM/amd/certification", "/acc/tdquote"
_ANSWER_LIMIT = 64 * 1024  # bytes; genuine ones have 7 to 10 KB
_TIMEOUT_S = 10.0
_FIX = "run this on an Azure confidential VM, in the guest; name its metadata service with `--imds`"


class Imds:
    """The metadata service of this machine. Nothing it says is trusted: the verifier authenticates it."""

    def __init__(self, base: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        """base: http://HOST[:PORT], without TLS, as Azure has it."""
        self._base, self._timeout_s = urlsplit(base), timeout_s

    def vcek(self) -> bytes:
        """Return the VCEK of this machine's chip and firmware, DER.

        Raises:
            AttesterError: no proper answer.
        """
        pem = self._text("GET", _THIM, None, "vcekCert")
        body = (
            pem.strip().removeprefix("-----BEGIN CERTIFICATE-----").removesuffix("-----END CERTIFICATE-----")
        )
        return _decoded("vcekCert", "".join(body.split()))

    def td_quote(self, td_report: bytes) -> bytes:
        """Return the quote that the host's quoting enclave makes of a TDREPORT.

        Raises:
            AttesterError: no proper answer.
        """
        body = json.dumps({"report": _base64url(td_report)}).encode()
        return _decoded("quote", self._text("POST", _TD_QUOTE, body, "quote"))

    def _text(self, method: str, path: str, body: bytes | None, name: str) -> str:
        try:
            found = json.loads(self._ask(method, path, body))
            value = found[name]
        except (ValueError, KeyError, TypeError, RecursionError):
            value = None
        if not isinstance(value, str):
            raise AttesterError(f"the metadata service's answer to {path} has no {name}", _FIX)
        return value

    def _ask(self, method: str, path: str, body: bytes | None) -> bytes:
        if self._base.scheme != "http" or self._base.hostname is None:
            raise AttesterError(f"{self._base.geturl()!r} is no metadata service", "write it as http://HOST")
        connection = http.client.HTTPConnection(
            self._base.hostname, self._base.port or 80, timeout=self._timeout_s
        )
        try:
            headers = {"Metadata": "true", "Content-Type": "application/json"}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read(_ANSWER_LIMIT + 1)
        except (OSError, http.client.HTTPException) as error:
            raise AttesterError(f"the metadata service does not answer {path}: {error!r}", _FIX) from None
        finally:
            connection.close()
        if answer.status != http.client.OK or len(content) > _ANSWER_LIMIT:
            raise AttesterError(
                f"the metadata service answers {path} with status {answer.status} and {len(content)} bytes",
                _FIX,
            )
        return content


class AzureVtpmAttester:
    """Quotes with the vTPM's own key, which the hardware report covers."""

    platform = Platform.AZURE_VTPM

    def __init__(self, client: TpmClient, imds: Imds) -> None:
        """client: of this machine's vTPM."""
        self._client, self._imds = client, imds

    def attest(self, report_data: bytes) -> Evidence:
        """As `Attester.attest`; the quote carries a digest of `report_data`.

        Raises:
            AttesterError: there is no report, vTPM or metadata service answered oddly, or the quote is by
            another key than the report's.
        """
        if len(report_data) != REPORT_DATA_SIZE:
            raise AttesterError(
                f"report data has {len(report_data)} bytes, expected {REPORT_DATA_SIZE}", _FIX
            )
        raw, report = self._report()
        values, quote, signature = consistent_quote(
            self._client, ATTESTATION_KEY, tpm2.qualifying_data(report_data), QUOTED_PCRS
        )
        if signature.scheme != tpm2_quote.RSASSA or signature.hash != tpm2_quote.SHA256:
            raise AttesterError("the vTPM's key does not sign with RSASSA and SHA-256", _FIX)
        envelope: dict[str, Any] = {
            "version": 1,
            "tpm_quote": {
                "signature": signature.parts[0].hex(),
                "message": tpm2_quote.encode_quote(quote).hex(),
                "pcrs": [values[index].hex() for index in QUOTED_PCRS],
            },
            "hcl_report": _base64url(raw),
            **self._hardware(report),
        }
        return Evidence(Platform.AZURE_VTPM, json.dumps(envelope).encode())

    def _report(self) -> tuple[bytes, azure_vtpm.HclReport]:
        raw = read_all(self._client, HCL_REPORT)
        if raw is None:
            raise AttesterError(f"the TPM has no report at NV {HCL_REPORT:#x}", _FIX)
        try:
            report = azure_vtpm.parse_hcl(raw)
        except MalformedEvidenceError as error:
            raise AttesterError(f"NV {HCL_REPORT:#x}: {error.problem}", _FIX) from None
        public = self._client.read_public(ATTESTATION_KEY)
        if public.unique != (report.modulus,):
            raise AttesterError(f"the key at {ATTESTATION_KEY:#x} is not the report's", _FIX)
        return raw, report

    def _hardware(self, report: azure_vtpm.HclReport) -> Mapping[str, str]:
        if report.report_type == azure_vtpm.SNP:
            return {"vcek": _base64url(self._imds.vcek())}
        td_report = report.hardware_report[:TD_REPORT_SIZE]
        return {"td_quote": _base64url(self._imds.td_quote(td_report))}


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


def _decoded(name: str, text: str) -> bytes:
    """Read base64 of either alphabet, with or without padding."""
    plain = text.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise AttesterError(f"the metadata service's {name} is not base64", _FIX) from None
