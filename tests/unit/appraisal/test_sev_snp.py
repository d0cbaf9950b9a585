"""The decision about SEV-SNP guests: each row of the policy, and why it refuses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from securetf import manifest as manifests
from securetf.appraisal import appraise, ear
from securetf.claims import VerifiedClaims
from securetf.errors import (
    AppraisalError,
    ManifestValueError,
    MeasurementError,
    PlatformNotAllowedError,
    TcbNotAcceptedError,
)
from securetf.evidence.sev_snp import SnpProduct
from securetf.manifest import SgxPolicy, SnpPolicy, SnpTcbMinimum
from support.snp_platform import NOW, Platform

MINIMUM = SnpTcbMinimum(bootloader=4, tee=0, snp=24, microcode=219)
POLICY = SnpPolicy(measurement=("01" * 48,), minimum_tcb={"Milan": MINIMUM})
MILAN = Platform()


def claims_of(platform: Platform = MILAN, *, vlek: bool = False, **changes: Any) -> VerifiedClaims:
    """Return verified claims, as if of hardware."""
    raw = platform.signed(**changes)
    return replace(platform.verify(raw, endorsements=platform.endorsements(vlek=vlek)), simulated=False)


def refused(claims: VerifiedClaims, policy: Any = POLICY, **changes: Any) -> AppraisalError:
    with pytest.raises(AppraisalError) as caught:
        appraise(claims, policy=msgspec.structs.replace(policy, **changes), rtmr3=bytes(48), now=NOW)
    return caught.value


def test_appraise_when_everything_matches_then_affirming() -> None:
    result = appraise(claims_of(), policy=POLICY, rtmr3=bytes(48), now=NOW)
    assert (result.status, result.trustworthiness_vector["hardware"]) == ("affirming", 2)
    other = appraise(
        claims_of(), policy=msgspec.structs.replace(POLICY, maximum_vmpl=1), rtmr3=bytes(48), now=NOW
    )
    assert other.policy_id != result.policy_id


@pytest.mark.parametrize(
    ("name", "size"),
    [("measurement", 48), ("host_data", 32), ("id_key_digest", 48), ("author_key_digest", 48)],
)
def test_appraise_when_a_register_differs_then_names_found_and_expected(name: str, size: int) -> None:
    claims = claims_of()
    wanted = "77" * size
    error = refused(claims, **{name: (wanted,)})
    assert type(error) is MeasurementError
    assert error.problem == f"{name} is {claims.registers[name].hex()}, expected {wanted}"
    assert "expected nothing" in refused(claims, **{name: ()}).problem


@pytest.mark.parametrize("kind", ["reported", "committed", "launch"])
@pytest.mark.parametrize("part", ["bootloader", "tee", "snp", "microcode"])
def test_appraise_when_a_tcb_is_below_the_minimum_then_names_it(kind: str, part: str) -> None:
    claims = claims_of()
    found = int(claims.properties[f"{kind}_tcb_{part}"])
    high = {f"{one}_tcb_{part}": 250 for one in ("reported", "committed", "launch")}
    claims = replace(claims, properties={**claims.properties, **high, f"{kind}_tcb_{part}": found})
    minimum = {"Milan": msgspec.structs.replace(MINIMUM, **{part: found + 1})}
    error = refused(claims, minimum_tcb=minimum)
    assert type(error) is TcbNotAcceptedError
    assert error.problem == f"{kind} TCB has {part} {found}, expected at least {found + 1}"


def test_appraise_when_turin_has_an_fmc_below_the_minimum_then_refused() -> None:
    turin = Platform(SnpProduct.TURIN)
    low = msgspec.structs.replace(MINIMUM, fmc=2)
    assert (
        "reported TCB has fmc 1, expected at least 2"
        in refused(claims_of(turin), minimum_tcb={"Turin": low}).problem
    )


def test_appraise_when_the_product_line_is_not_named_then_refused() -> None:
    error = refused(claims_of(Platform(SnpProduct.GENOA)))
    assert type(error) is PlatformNotAllowedError
    assert error.problem == "minimum_tcb does not name the product line Genoa"
    assert "does not name the product line" in refused(claims_of(), minimum_tcb={}).problem


def test_appraise_when_firmware_is_provisional_then_only_if_tolerated() -> None:
    claims = claims_of(current_tcb=replace(MILAN.tcb, microcode=220))
    assert "firmware is provisional" in refused(claims).problem
    tolerant = msgspec.structs.replace(POLICY, tolerate=("Provisional",))
    assert appraise(claims, policy=tolerant, rtmr3=bytes(48), now=NOW).status == "warning"


def test_appraise_when_vmpl_guest_svn_or_smt_is_not_accepted_then_refused() -> None:
    assert "VMPL 1, expected at most 0" in refused(claims_of(vmpl=1)).problem
    assert refused(claims_of(), minimum_guest_svn=3).problem == "guest_svn is 2, expected at least 3"
    smt = claims_of(policy=1 << 17 | 1 << 16)
    assert "allows SMT" in refused(smt).problem
    tolerant = msgspec.structs.replace(POLICY, tolerate=("SMT",), maximum_vmpl=1)
    assert appraise(smt, policy=tolerant, rtmr3=bytes(48), now=NOW).status == "affirming"


def test_appraise_when_a_vlek_signed_then_only_of_a_named_provider() -> None:
    claims = claims_of(vlek=True, flags=1 << 2, chip_id=bytes(64))
    assert "VLEK of 'CN=cc-test.example', which is not among csp_ids" in refused(claims).problem
    named = msgspec.structs.replace(POLICY, csp_ids=("CN=cc-test.example",))
    assert appraise(claims, policy=named, rtmr3=bytes(48), now=NOW).status == "affirming"


def test_appraise_when_the_machine_is_not_listed_then_refused() -> None:
    claims = claims_of()
    assert "is not among platform_ids" in refused(claims, platform_ids=("00" * 64,)).problem
    listed = msgspec.structs.replace(POLICY, platform_ids=(claims.platform_id.hex(),))
    vector = appraise(claims, policy=listed, rtmr3=bytes(48), now=NOW).trustworthiness_vector
    assert vector["instance-identity"] == 2


def test_appraise_when_claims_are_simulated_or_the_policy_is_of_another_platform_then_refused() -> None:
    simulated = replace(claims_of(), simulated=True)
    assert "simulated claims call themselves sev_snp" in refused(simulated).problem
    assert "policy is not one for sev_snp" in refused(claims_of(), SgxPolicy(mr_enclave=("00" * 32,))).problem
    from securetf.manifest import PlatformPolicy  # noqa: PLC0415

    assert "policy is not one for sev_snp" in refused(claims_of(), PlatformPolicy(mr_td=("00" * 48,))).problem


def test_appraise_when_several_things_differ_then_all_are_named() -> None:
    error = refused(claims_of(vmpl=2, policy=1 << 17 | 1 << 16), measurement=("77" * 48,), minimum_tcb={})
    assert type(error) is AppraisalError
    for words in ("measurement is", "product line", "VMPL 2", "allows SMT"):
        assert words in error.problem


# --- in a Manifest ---

TEXT = """
[session]
name = "tenant/session"
[appraisal.sev_snp]
measurement = ["{measurement}"]
tolerate = ["SMT"]
[appraisal.sev_snp.minimum_tcb.Milan]
bootloader = 4
tee = 0
snp = 24
microcode = {microcode}
[appraisal.sgx]
mr_signer = ["{signer}"]
isv_prod_id = 1
"""


def manifest(**changes: Any) -> Callable[[], manifests.Manifest]:
    values = {"measurement": "01" * 48, "microcode": 219, "signer": "02" * 32} | changes
    return lambda: manifests.parse(TEXT.format(**values))


def test_manifest_when_it_names_the_platforms_then_each_has_its_own_table() -> None:
    appraisal = manifest()().appraisal
    assert appraisal["sev_snp"] == msgspec.structs.replace(POLICY, tolerate=("SMT",))
    assert appraisal["sgx"] == SgxPolicy(mr_signer=("02" * 32,), isv_prod_id=1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"microcode": 256}, r"`appraisal.sev_snp.minimum_tcb.Milan.microcode` is 256, expected 0 to 255"),
        ({"measurement": "01"}, r"`appraisal.sev_snp.measurement\[0\]` is \"01\", expected 96 hex digits"),
        ({"signer": "02" * 31}, r"`appraisal.sgx.mr_signer\[0\]`"),
    ],
)
def test_manifest_when_a_value_is_wrong_then_names_the_key(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ManifestValueError, match=reason):
        manifest(**changes)()


def test_token_when_about_a_guest_then_says_its_registers_and_properties() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    result = appraise(claims_of(), policy=POLICY, rtmr3=bytes(48), now=NOW)
    token = ear.issue(
        result,
        key=ear.SigningKey.of(key),
        issuer="cas",
        audience="all",
        subject="spiffe://example/acme/mnist/trainer/0",
        nonce=b"\7" * 32,
        confirmation_jwk=ear.confirmation_jwk(key.public_key()),
        binding=ear.Binding.KEY,
        token_id="0" * 16,
        now=NOW,
    )
    keys = {ear.key_id(key.public_key()): key.public_key()}
    ours = ear.check(token, keys=keys, issuer="cas", audience="all", nonce=None, now=NOW).raw["securetf"]
    assert (ours["platform"], ours["platform_id"]) == ("sev_snp", MILAN.hw_id.hex())
    assert ours["registers"]["measurement"] == "01" * 48
    assert (ours["properties"]["product"], ours["properties"]["vmpl"]) == ("Milan", 0)
