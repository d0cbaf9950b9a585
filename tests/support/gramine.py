"""Gramine's pseudo-files as plain files, as one enclave sees them."""

import hashlib
from pathlib import Path
from typing import Any

from securetf.evidence import sgx
from support.sgx_platform import FIELDS, body

TARGET_INFO = bytes(range(256)) * 2


def enclave(root: Path, *, chip: bytes = b"this chip", **changes: Any) -> Path:
    """Write the files of an enclave; changes: of its report. The keys follow from what EGETKEY mixes."""
    report = body(**changes)
    empty = sgx.SgxQuote(qe_svn=0, pce_svn=0, user_data=bytes(20), body=report, **dict.fromkeys(FIELDS, b""))
    (root / "keys").mkdir(parents=True, exist_ok=True)
    (root / "attestation_type").write_text("dcap")
    (root / "my_target_info").write_bytes(TARGET_INFO)
    (root / "report").write_bytes(sgx.signed_bytes(empty)[48:] + bytes(48))
    mixed = chip + report.cpu_svn + bytes((report.isv_svn, report.config_svn, report.isv_prod_id))
    for name, identity in (("mrenclave", report.mr_enclave), ("mrsigner", report.mr_signer)):
        key = hashlib.sha256(mixed + name.encode() + identity).digest()[:16]
        (root / "keys" / f"_sgx_{name}").write_bytes(key)
    return root
