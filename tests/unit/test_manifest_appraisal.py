"""`require` in `[appraisal]`: what a Manifest may demand together, and that its hash says so."""

import pytest

from securetf import manifest as manifests
from securetf.errors import ManifestError

TDX = f'[appraisal.tdx]\nmr_td = ["{"0" * 96}"]\n'
SNP = (
    f'[appraisal.sev_snp]\nmeasurement = ["{"0" * 96}"]\n'
    "minimum_tcb = { Milan = { bootloader = 3, tee = 0, snp = 8, microcode = 115 } }\n"
)
TPM = f'[appraisal.tpm2.pcrs]\npcr0 = ["{"0" * 64}"]\n'


def manifest(require: str, *policies: str) -> manifests.Manifest:
    first = f"[appraisal]\nrequire = {require}\n" if require else ""
    return manifests.parse(f'[session]\nname = "acme/digits"\n{first}{"".join(policies)}')


def test_manifest_when_it_requires_platforms_then_says_so_in_its_canonical_form_and_hash() -> None:
    plain, both = manifest("", TDX, TPM), manifest('["tdx", "tpm2"]', TDX, TPM)
    assert (plain.require, both.require) == ((), ("tdx", "tpm2"))
    assert set(both.appraisal) == {"tdx", "tpm2"}
    assert b'"require":["tdx","tpm2"]' in manifests.canonical(both)
    assert b"require" not in manifests.canonical(plain)
    assert manifests.hash_text(plain) != manifests.hash_text(both)


@pytest.mark.parametrize(
    ("require", "policies", "reason"),
    [
        ("[]", (TDX,), "`appraisal.require` is an empty list"),
        ('["tpm2"]', (TDX,), "tpm2"),
        ('["tdx", "tdx"]', (TDX,), 'names "tdx" twice'),
        ('["tdx", "sev_snp"]', (TDX, SNP), "which no machine has together"),
        ('["gpu"]', (TDX,), '"gpu"'),
        ('"tdx"', (TDX,), "expected a list"),
    ],
)
def test_manifest_when_it_requires_what_cannot_be_then_refused(
    require: str, policies: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(ManifestError, match=reason):
        manifest(require, *policies)


def test_manifest_when_require_stands_elsewhere_then_an_unknown_key() -> None:
    with pytest.raises(ManifestError, match="`require` is not a known key"):
        manifests.parse(f'require = ["tdx"]\n[session]\nname = "acme/digits"\n{TDX}')


def test_policy_when_it_holds_more_than_the_appraisal_then_refused() -> None:
    tree: dict[str, object] = {"appraisal": {"tpm2": {"pcrs": {"pcr0": ["0" * 64]}}, "require": ["tpm2"]}}
    assert manifests.appraisal_of(tree).require == ("tpm2",)
    for wrong in ({}, {**tree, "session": {"name": "a/b"}}):
        with pytest.raises(ManifestError, match=r"expected `\[appraisal.PLATFORM\]` alone"):
            manifests.appraisal_of(wrong)
