"""`securetf endorsements`: fetches what Evidence needs; what was fetched serves where there is no network."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from securetf.attester import development_pki as pki
from securetf.cli import call
from securetf.endorsements import Endorsements
from securetf.evidence import sev_snp_certificates
from support import shared_vectors, snp_platform
from support.vendor import Reply, Vendor, running

NOW = datetime(2026, 11, 22, 20, tzinfo=UTC)
AT = ("--at", NOW.isoformat())
GENUINE = {"tdx": ("tdx-B0C06F000000-2025-06", 568), "sgx": ("sgx-00A067110000-2025-06", 368)}
TDX = ("--fmspc", pki.FMSPC, "--tee", "tdx")


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[Vendor]:
    with running(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def collateral() -> Endorsements:
    return pki.endorse(pki.create(NOW, platform_id=bytes(16)), NOW)


def services(vendor: Vendor) -> tuple[str, ...]:
    return ("--pccs", vendor.url, "--kds", vendor.url, "--tls-ca", str(vendor.ca_file), "--deadline", "20")


def shown(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    found = json.loads(capsys.readouterr().out)
    return list(found["artefacts"])


def test_fetch_when_a_platform_is_named_then_its_collateral_is_in_the_cache(
    vendor: Vendor, collateral: Endorsements, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vendor.serve_dcap(collateral, tee="tdx", fmspc=pki.FMSPC)
    cache = ("--cache", str(tmp_path / "cache"))
    for _ in range(2):
        assert call(["endorsements", "fetch", *TDX, *cache, *AT, *services(vendor), "--json"]) == 0
        (row,) = shown(capsys)
        assert row["valid"] is True
    assert len(vendor.asked) == 4  # the second time nothing was asked for
    assert call(["endorsements", "show", *cache, "--at", "2027-11-22T20:00:00Z", "--json"]) == 0
    (row,) = shown(capsys)
    assert (row["valid"], row["source"]) == (False, vendor.url)


def test_refresh_when_the_service_is_down_then_says_what_is_kept(
    vendor: Vendor, collateral: Endorsements, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vendor.serve_dcap(collateral, tee="tdx", fmspc=pki.FMSPC)
    cache = ("--cache", str(tmp_path / "cache"))
    assert call(["endorsements", "fetch", *TDX, *cache, *AT, *services(vendor)]) == 0
    assert call(["endorsements", "fetch", "--refresh", *cache, *AT, *services(vendor)]) == 0
    assert len(vendor.asked) == 8
    vendor.routes.clear()
    assert call(["endorsements", "fetch", "--refresh", *cache, *AT, *services(vendor)]) == 0
    assert "is kept as it was" in capsys.readouterr().err


def test_fetch_when_early_is_asked_for_then_the_service_is_asked_for_it(
    vendor: Vendor, collateral: Endorsements, tmp_path: Path
) -> None:
    vendor.serve_dcap(collateral, tee="tdx", fmspc=pki.FMSPC)
    cache = ("--cache", str(tmp_path / "cache"))
    assert call(["endorsements", "fetch", *TDX, *cache, *AT, *services(vendor), "--update", "early"]) == 0
    assert f"/tdx/certification/v4/tcb?fmspc={pki.FMSPC}&update=early" in vendor.asked


def test_fetch_when_given_evidence_then_verify_does_without_a_network(
    vendor: Vendor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    platform = snp_platform.Platform()
    serve(vendor, platform)
    evidence = tmp_path / "report.bin"
    evidence.write_bytes(platform.signed())
    cache = ("--cache", str(tmp_path / "cache"))
    assert call(["endorsements", "fetch", str(evidence), *cache, *AT, *services(vendor), "--json"]) == 0
    assert {row["name"].rpartition("-")[0] for row in shown(capsys)} >= {"chain-milan", "crl-milan"}
    asked = len(vendor.asked)
    nonce = ("--report-data", snp_platform.REPORT_DATA.hex())
    # The tests' AMD is no trust anchor: everything before the root was found in the cache.
    assert call(["evidence", "verify", str(evidence), *nonce, *cache, *AT]) == 10
    assert "which is not a trust anchor" in capsys.readouterr().err
    assert len(vendor.asked) == asked


def serve(vendor: Vendor, platform: snp_platform.Platform) -> None:
    line = f"/vcek/v1/{platform.product}"
    vendor.routes |= {
        f"{line}/{platform.hw_id.hex()}?blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219": Reply(
            platform.vcek().der()
        ),
        f"{line}/cert_chain": Reply(pem(platform.ask()) + pem(platform.ark())),
        f"{line}/crl": Reply(platform.crl()),
    }


def pem(recipe: snp_platform.Recipe) -> bytes:
    return recipe.certificate().public_bytes(snp_platform.Encoding.PEM)


def test_import_when_given_a_directory_then_the_same_as_fetched(
    collateral: Endorsements, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    platform = snp_platform.Platform()
    files = tmp_path / "files"
    files.mkdir()
    (files / "collateral.json").write_text(collateral.to_json())
    (files / "chain.pem").write_bytes(pem(platform.ask()) + pem(platform.ark()))
    (files / "vcek.der").write_bytes(platform.vcek().der())
    (files / "list.crl").write_bytes(platform.crl())
    assert call(["endorsements", "import", str(files), "--cache", str(tmp_path / "one"), *AT, "--json"]) == 0
    first = shown(capsys)
    kinds = sorted(row["name"].split("-")[0] for row in first)
    assert kinds == ["chain", "crl", "crl", "dcap", "vcek"]
    # A whole cache is a bundle, too.
    assert (
        call(
            ["endorsements", "import", str(tmp_path / "one"), "--cache", str(tmp_path / "two"), *AT, "--json"]
        )
        == 0
    )
    assert [row["name"] for row in shown(capsys)] == [row["name"] for row in first]
    report = sev_snp_certificates.parse(platform.signed())
    assert report.report.chip_id == platform.hw_id


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{}", "not an object with exactly the names"),
        (b"hello", "no certificate or revocation list"),
        (b'{"version": 1, "name": "../../x", "content": "AA=="}', "is not the name of an artefact"),
        (b'{"version": 1, "name": "crl-x", "content": "*"}', "not a file of a cache"),
    ],
)
def test_import_when_one_file_is_of_no_use_then_nothing_is_kept(
    collateral: Endorsements, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, reason: str
) -> None:
    (tmp_path / "good.json").write_text(collateral.to_json())
    (tmp_path / "bad").write_bytes(content)
    files = [str(tmp_path / "good.json"), str(tmp_path / "bad")]
    assert call(["endorsements", "import", *files, "--cache", str(tmp_path / "cache"), *AT]) == 10
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_import_when_a_file_is_not_there_then_nothing_is_kept(
    collateral: Endorsements, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.json").write_text(collateral.to_json())
    files = [str(tmp_path / "c.json"), str(tmp_path / "missing.json")]
    assert call(["endorsements", "import", *files, "--cache", str(tmp_path / "cache"), *AT]) == 2
    assert "cannot read" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_import_when_expired_then_refused_for_that(
    collateral: Endorsements, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.json").write_text(collateral.to_json())
    cache = ("--cache", str(tmp_path / "cache"))
    assert (
        call(["endorsements", "import", str(tmp_path / "c.json"), *cache, "--at", "2028-01-01T00:00:00Z"])
        == 10
    )
    assert "expired at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "nothing was named"),
        (("--fmspc", "00"), "without --tee"),
        (("--fmspc", "zz", "--tee", "sgx"), "not 12 hex digits"),
        (("--product", "Milan", "--chip-id", "00"), "belong together"),
        (("--product", "Milan", "--chip-id", "zz", "--tcb", "bootloader=1"), "not hexadecimal"),
        (("--product", "Milan", "--chip-id", "00", "--tcb", "bootloader=1"), "is no TCB"),
    ],
)
def test_fetch_when_its_arguments_do_not_fit_then_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], reason: str
) -> None:
    assert call(["endorsements", "fetch", *arguments, "--cache", str(tmp_path / "cache")]) in {2, 10}
    assert reason in capsys.readouterr().err


@shared_vectors.NEEDED
@pytest.mark.parametrize("tee", ["tdx", "sgx"])
def test_genuine_collateral_when_served_then_genuine_evidence_is_verified_from_the_cache(
    vendor: Vendor, tmp_path: Path, capsys: pytest.CaptureFixture[str], tee: str
) -> None:
    file, nonce_at = GENUINE[tee]
    path = shared_vectors.VECTORS / f"{tee}/dcapqvl_{tee}_v{4 if tee == 'tdx' else 3}.bin"
    collateral = Endorsements.from_json((shared_vectors.VECTORS / f"collateral/{file}.json").read_bytes())
    ca = "platform" if tee == "tdx" else "processor"
    vendor.serve_dcap(collateral, tee=tee, fmspc=file.split("-")[1], ca=ca)
    both = ("--cache", str(tmp_path / "cache"), "--at", "2025-07-01T00:00:00Z")
    assert call(["endorsements", "fetch", str(path), *both, *services(vendor)]) == 0
    vendor.routes.clear()
    nonce = path.read_bytes()[nonce_at : nonce_at + 64].hex()
    assert call(["evidence", "verify", str(path), "--report-data", nonce, *both, "--json"]) == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(printed)["authentic"] is True
