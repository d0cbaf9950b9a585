"""The policy that accepts exactly what some claims show, as a table for a Manifest."""

from collections.abc import Iterable
from typing import Any

from securetf.appraisal.comparison import Claims
from securetf.claims import Platform
from securetf.errors import PlatformNotAllowedError

_RTMRS = ("rtmr0", "rtmr1", "rtmr2")
_SNP_OPTIONAL = ("host_data", "id_key_digest", "author_key_digest")  # zero where the launcher gave none
_SNP_TCB = ("bootloader", "tee", "snp", "microcode", "fmc")
# Firmware, boot loader, kernel. Not 10 (IMA, grows while the machine runs) and not 16 to 23 (anyone's).
_BOOT_PCRS = (*range(10), *range(11, 16))
# Image, kernel, application, and the signer if there is one. Not 3 and 4 (role and id of the instance).
_NITRO_PCRS = (0, 1, 2)
_NITRO_SIGNER = 8


def reference_values(claims: Claims, *, any_machine: bool) -> dict[str, Any]:
    """Return the content of `[appraisal.PLATFORM]`. any_machine: leave `platform_ids` out.

    Statuses and advisories of the machine stand under `tolerate`, which whoever uses the table must weigh.

    Raises:
        PlatformNotAllowedError: there is no policy for this platform.
    """
    match claims.platform:
        case Platform.TDX | Platform.INSECURE_SIMULATION:
            table = _tdx(claims, _RTMRS)
        case Platform.SGX:
            table = _sgx(claims)
        case Platform.SEV_SNP:
            table = _snp(claims)
        case Platform.NITRO:
            signer = (_NITRO_SIGNER,) if any(claims.registers.get("pcr8", b"")) else ()
            table = {"pcrs": _pcrs(claims, (*_NITRO_PCRS, *signer))}
        case Platform.TPM2 | Platform.GCP_VTPM:
            table = {"pcrs": _pcrs(claims, _BOOT_PCRS)}
        case Platform.AZURE_VTPM:
            table = _azure(claims)
        case _:
            raise PlatformNotAllowedError(
                f"there is no policy for {claims.platform.value}", "name another platform"
            )
    if claims.platform_id and not any_machine:
        table["platform_ids"] = [claims.platform_id.hex()]
    return table


def _tdx(claims: Claims, rtmrs: Iterable[str]) -> dict[str, Any]:
    return {name: [claims.registers[name].hex()] for name in ("mr_td", *rtmrs)} | _tolerated(claims)


def _sgx(claims: Claims) -> dict[str, Any]:
    return {
        "mr_enclave": [claims.registers["mr_enclave"].hex()],
        "mr_signer": [claims.registers["mr_signer"].hex()],
        "isv_prod_id": claims.properties["isv_prod_id"],
        "minimum_isv_svn": claims.properties["isv_svn"],
        **_tolerated(claims),
    }


def _tolerated(claims: Claims) -> dict[str, Any]:
    status = [] if claims.tcb_status == "UpToDate" else [claims.tcb_status]
    tolerate = [*status, *claims.advisories]
    return {"tolerate": tolerate} if tolerate else {}


def _snp(claims: Claims) -> dict[str, Any]:
    given = claims.properties
    table: dict[str, Any] = {"measurement": [claims.registers["measurement"].hex()]}
    for name in _SNP_OPTIONAL:
        if any(claims.registers[name]):
            table[name] = [claims.registers[name].hex()]
    kinds = ("reported", "committed", "launch")
    minimum = {
        part: min(int(given[f"{kind}_tcb_{part}"]) for kind in kinds)
        for part in _SNP_TCB
        if f"reported_tcb_{part}" in given
    }
    table["minimum_guest_svn"], table["maximum_vmpl"] = given["guest_svn"], given["vmpl"]
    if given["csp_id"]:
        table["csp_ids"] = [given["csp_id"]]
    tolerate = ["SMT"] if given["smt_allowed"] else []
    tolerate += ["Provisional"] if claims.tcb_status == "Provisional" else []
    if tolerate:
        table["tolerate"] = tolerate
    return table | {"minimum_tcb": {given["product"]: minimum}}


def _pcrs(claims: Claims, indices: Iterable[int]) -> dict[str, list[str]]:
    names = [f"pcr{index}" for index in indices]
    return {name: [claims.registers[name].hex()] for name in names if name in claims.registers}


def _azure(claims: Claims) -> dict[str, Any]:
    hardware = str(claims.properties.get("hardware"))
    part = _snp(claims) if hardware == Platform.SEV_SNP.value else _tdx(claims, (*_RTMRS, "rtmr3"))
    return {"pcrs": _pcrs(claims, _BOOT_PCRS), hardware: part}
