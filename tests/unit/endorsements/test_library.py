"""Endorsements come from the cache while it is valid, else from the vendor's service, once for all."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from securetf.attester import development_pki as pki
from securetf.endorsements import Endorsements, names
from securetf.endorsements.cache import Cache
from securetf.endorsements.library import Library
from securetf.endorsements.needs import DcapNeed, SnpNeed
from securetf.endorsements.refreshing import refresh
from securetf.endorsements.refusals import EndorsementExpiredError, EndorsementMissingError
from securetf.endorsements.sources import Update
from securetf.errors import EndorsementError
from securetf.evidence.sev_snp import SnpKey, SnpProduct
from support import snp_platform
from support.vendor import Reply, Vendor

NOW = datetime(2026, 11, 22, tzinfo=UTC)
TCB = "/tdx/certification/v4/tcb?fmspc={}&update=standard"


@pytest.fixture
def served(vendor: Vendor, collateral: Endorsements, need: DcapNeed) -> Vendor:
    vendor.serve_dcap(collateral, tee="tdx", fmspc=need.fmspc)
    return vendor


def test_collateral_when_fetched_then_exact_and_afterwards_from_the_cache(
    served: Vendor, cache: Cache, need: DcapNeed, collateral: Endorsements
) -> None:
    assert Library(cache, served.sources()).obtain(need, now=NOW) == collateral
    assert len(served.asked) == 4
    assert Library(cache, served.sources()).obtain(need, now=NOW) == collateral
    assert len(served.asked) == 4


def test_valid_cache_when_the_host_is_down_then_used(
    served: Vendor, cache: Cache, need: DcapNeed, collateral: Endorsements
) -> None:
    Library(cache, served.sources()).obtain(need, now=NOW)
    down = served.sources(intel="https://127.0.0.1:9", intel_root_crl=None)
    assert Library(cache, down).obtain(need, now=NOW + timedelta(days=1)) == collateral
    assert Library(cache, None).obtain(need, now=NOW + timedelta(days=1)) == collateral


def test_expired_cache_when_the_host_is_down_then_refused_for_both_reasons(
    served: Vendor, cache: Cache, need: DcapNeed
) -> None:
    Library(cache, served.sources()).obtain(need, now=NOW)
    later = NOW + timedelta(days=40)
    down = served.sources(intel="https://127.0.0.1:9", intel_root_crl=None, deadline_s=3.0)
    with pytest.raises(EndorsementExpiredError, match=r"expired at 2026-12-.*; fetching it failed.*refused"):
        Library(cache, down).obtain(need, now=later)
    with pytest.raises(EndorsementExpiredError, match=r"expired at .*; nothing is fetched here"):
        Library(cache, None).obtain(need, now=later)


def test_memory_when_what_it_holds_has_expired_then_refused(
    served: Vendor, cache: Cache, need: DcapNeed
) -> None:
    Library(cache, served.sources()).obtain(need, now=NOW)
    library = Library(cache, None)
    library.obtain(need, now=NOW)
    with pytest.raises(EndorsementExpiredError, match="expired"):
        library.obtain(need, now=NOW + timedelta(days=40))


def test_memory_when_something_newer_is_imported_then_that_is_used(
    cache: Cache, need: DcapNeed, collateral: Endorsements
) -> None:
    name = names.dcap(need, Update.STANDARD)
    cache.put(name, collateral.to_json().encode(), source="a", now=NOW)
    library = Library(cache, None)
    assert library.obtain(need, now=NOW) == collateral
    newer = collateral.to_json().replace(collateral.tcb_info_signature.hex(), "07" * 64)
    cache.put(name, newer.encode(), source="b", now=NOW)
    assert library.obtain(need, now=NOW).tcb_info_signature == b"\7" * 64


def test_empty_cache_when_offline_or_the_service_knows_nothing_then_missing(
    vendor: Vendor, cache: Cache, need: DcapNeed
) -> None:
    with pytest.raises(EndorsementMissingError, match=r"no dcap-tdx-.*nothing is fetched here"):
        Library(cache, None).obtain(need, now=NOW)
    with pytest.raises(EndorsementMissingError, match=r"no dcap-tdx-.*HTTP 404"):
        Library(cache, vendor.sources()).obtain(need, now=NOW)


def test_slow_host_when_its_answer_trickles_then_cut_at_the_deadline(
    served: Vendor, cache: Cache, need: DcapNeed
) -> None:
    served.routes["/root.der"] = Reply(b"\x30" * 4000, trickle_s=0.05)
    with pytest.raises(EndorsementMissingError, match="no answer within 1 s"):
        Library(cache, served.sources(deadline_s=1.0)).obtain(need, now=NOW)


def test_many_at_once_when_they_need_one_thing_then_asked_once(
    served: Vendor, cache: Cache, need: DcapNeed, collateral: Endorsements
) -> None:
    gate = threading.Event()
    found = served.routes[TCB.format(need.fmspc)]
    assert isinstance(found, Reply)
    found.wait = gate
    library = Library(cache, served.sources())
    with ThreadPoolExecutor(12) as pool:
        asking = [pool.submit(library.obtain, need, now=NOW) for _ in range(12)]
        gate.set()
        assert all(one.result(30) == collateral for one in asking)
    assert len(served.asked) == 4


def test_failure_when_just_seen_then_the_service_is_left_alone(
    vendor: Vendor, cache: Cache, need: DcapNeed
) -> None:
    library = Library(cache, vendor.sources())
    for _ in range(3):
        with pytest.raises(EndorsementMissingError, match="HTTP 404"):
            library.obtain(need, now=NOW)
    assert len(vendor.asked) == 1


def test_service_when_it_gives_expired_collateral_then_not_kept(
    served: Vendor, cache: Cache, need: DcapNeed
) -> None:
    with pytest.raises(EndorsementMissingError, match="expired at 2026-12-"):
        Library(cache, served.sources()).obtain(need, now=NOW + timedelta(days=40))
    assert not list(cache)


def test_cache_when_it_cannot_be_written_then_what_was_fetched_is_used(
    served: Vendor, tmp_path: Path, need: DcapNeed, collateral: Endorsements
) -> None:
    (tmp_path / "file").write_text("")
    assert Library(Cache(tmp_path / "file" / "cache"), served.sources()).obtain(need, now=NOW) == collateral


def snp_need(platform: snp_platform.Platform, **changes: object) -> SnpNeed:
    values = {
        "product": platform.product,
        "key": SnpKey.VCEK,
        "chip_id": platform.hw_id,
        "tcb": platform.tcb,
    }
    return SnpNeed(**values | changes)  # type: ignore[arg-type]


def serve_amd(vendor: Vendor, platform: snp_platform.Platform) -> None:
    fmc = "fmcSPL=01&" if platform.product is SnpProduct.TURIN else ""
    tcb = f"{fmc}blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219"
    line = f"/vcek/v1/{platform.product}"
    vendor.routes[f"{line}/{platform.hw_id.hex()}?{tcb}"] = Reply(platform.vcek().der())
    for service, signer in (("vcek", platform.ask()), ("vlek", platform.asvk())):
        chain = [
            one.certificate().public_bytes(snp_platform.Encoding.PEM) for one in (signer, platform.ark())
        ]
        vendor.routes[f"/{service}/v1/{platform.product}/cert_chain"] = Reply(b"".join(chain))
        vendor.routes[f"/{service}/v1/{platform.product}/crl"] = Reply(platform.crl())


@pytest.mark.parametrize("product", list(SnpProduct))
def test_amd_when_fetched_then_the_verifier_accepts_a_bare_report(
    vendor: Vendor, cache: Cache, product: SnpProduct
) -> None:
    platform = snp_platform.Platform(product)
    serve_amd(vendor, platform)
    found = Library(cache, vendor.sources()).obtain(snp_need(platform), now=snp_platform.NOW)
    assert platform.verify(endorsements=found).platform_id == platform.hw_id


def test_amd_when_the_report_names_no_product_line_then_both_are_asked(vendor: Vendor, cache: Cache) -> None:
    platform = snp_platform.Platform(SnpProduct.GENOA)
    serve_amd(vendor, platform)
    need = snp_need(platform, product=None)
    found = Library(cache, vendor.sources()).obtain(need, now=snp_platform.NOW)
    assert found.vek is not None
    assert vendor.asked[0].startswith("/vcek/v1/Milan/")


def test_amd_when_a_vlek_signs_then_its_chain_and_no_certificate_of_the_chip(
    vendor: Vendor, cache: Cache
) -> None:
    platform = snp_platform.Platform(SnpProduct.MILAN)
    serve_amd(vendor, platform)
    need = snp_need(platform, key=SnpKey.VLEK, chip_id=b"")
    found = Library(cache, vendor.sources()).obtain(need, now=snp_platform.NOW)
    assert (found.asvk is None, found.ask, found.vek) == (False, None, None)
    assert vendor.asked == ["/vlek/v1/Milan/cert_chain", "/vlek/v1/Milan/crl"]


def test_amd_when_the_revocation_list_is_not_to_be_had_then_refused(vendor: Vendor, cache: Cache) -> None:
    platform = snp_platform.Platform(SnpProduct.MILAN)
    serve_amd(vendor, platform)
    vendor.routes["/vcek/v1/Milan/crl"] = Reply(status=500)
    with pytest.raises(EndorsementError, match=r"no crl-milan-vcek in .*HTTP 500"):
        Library(cache, vendor.sources()).obtain(snp_need(platform), now=snp_platform.NOW)


def test_amd_when_the_firmware_differs_then_it_is_another_certificate() -> None:
    platform = snp_platform.Platform(SnpProduct.TURIN)
    one = names.vcek(platform.product, platform.hw_id, platform.tcb)
    other = names.vcek(platform.product, platform.hw_id, snp_platform.replace(platform.tcb, fmc=2))
    assert one != other


def test_refresh_when_there_is_something_newer_then_it_counts_at_once(
    served: Vendor, cache: Cache, need: DcapNeed
) -> None:
    library = Library(cache, served.sources())
    library.obtain(need, now=NOW)
    newer = pki.endorse(pki.create(NOW, platform_id=bytes(16)), NOW + timedelta(days=3))
    served.serve_dcap(newer, tee="tdx", fmspc=need.fmspc)
    found = refresh(cache, served.sources(), now=NOW + timedelta(days=3))
    assert found == {names.dcap(need, Update.STANDARD): None}
    assert library.obtain(need, now=NOW + timedelta(days=3)) == newer


def test_refresh_when_the_service_is_down_then_the_old_is_kept(
    served: Vendor, cache: Cache, need: DcapNeed, collateral: Endorsements
) -> None:
    platform = snp_platform.Platform()
    serve_amd(served, platform)
    library = Library(cache, served.sources())
    library.obtain(need, now=NOW)
    library.obtain(snp_need(platform), now=snp_platform.NOW)
    asked = len(served.asked)
    served.routes.clear()
    found = refresh(cache, served.sources(), now=NOW)
    assert sorted(name.split("-")[0] for name in found) == ["chain", "crl", "dcap"]  # a VCEK never changes
    assert all("HTTP 404" in str(error) for error in found.values())
    assert len(served.asked) == asked + 3
    assert library.obtain(need, now=NOW) == collateral
