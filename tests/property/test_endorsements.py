"""Whatever a service, a file or unverified Evidence holds, only our errors leave the code that reads it."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from securetf.attester import development_pki as pki
from securetf.attester.simulated_enclave import simulated_report
from securetf.claims import Evidence, Platform
from securetf.endorsements import windows
from securetf.endorsements.cache import KINDS, Cache
from securetf.endorsements.importing import import_files
from securetf.endorsements.intel import _crl, _document
from securetf.errors import SecuretfError
from securetf.verifier.needs import needs_of
from support.snp_platform import Platform as Chip

NOW = datetime(2026, 11, 22, tzinfo=UTC)
KEYS = pki.create(NOW, platform_id=bytes(16))
COLLATERAL = pki.endorse(KEYS, NOW).to_json().encode()
LIST = pki.crl(KEYS.root, (), NOW)
CERTIFICATE = pki.pem_chain(KEYS.pck_ca, KEYS.root).encode()
QUOTE = KEYS.quoting_enclave().quote(simulated_report(bytes(64), mr_td=bytes(48), rtmr3=bytes(48)))
REPORT = Chip().signed()
FEW = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def damaged(draw: st.DrawFn, *whole: bytes) -> bytes:
    """Return something, or one of `whole` with a byte changed and its end cut off."""
    raw = draw(st.sampled_from([*whole, b""]))
    if not raw:
        return draw(st.binary(max_size=200))
    place = draw(st.integers(0, len(raw) - 1))
    changed = raw[:place] + bytes([draw(st.integers(0, 255))]) + raw[place + 1 :]
    return changed[: draw(st.integers(0, len(raw)))] if draw(st.booleans()) else changed


@FEW
@given(damaged(COLLATERAL, LIST, CERTIFICATE))
def test_artefact_when_anything_then_a_window_or_our_error(content: bytes) -> None:
    for read in KINDS.values():
        try:
            assert isinstance(read(content), windows.Window)
        except SecuretfError:
            continue


@FEW
@given(damaged(COLLATERAL, LIST, CERTIFICATE, Chip().vcek().der()))
def test_import_when_anything_then_kept_or_our_error(content: bytes) -> None:
    with TemporaryDirectory() as directory:
        cache = Cache(Path(directory) / "cache")
        try:
            import_files(cache, [("file", content)], update="standard", now=NOW)
        except SecuretfError:
            assert not cache.directory.exists()


@FEW
@given(
    st.dictionaries(
        st.sampled_from(["version", "name", "source", "fetched_at", "content", "other"]),
        st.one_of(
            st.integers(), st.text(), st.none(), st.lists(st.integers()), st.just("crl-x"), st.just(1),
            st.binary().map(lambda raw: base64.b64encode(raw).decode()),
        ),
    )
)  # fmt: skip
def test_file_of_a_cache_when_anything_then_our_error(entry: dict[str, object]) -> None:
    with TemporaryDirectory() as directory:
        (Path(directory) / "crl-x.json").write_text(json.dumps(entry))
        assert all(isinstance(one, SecuretfError) for one in Cache(Path(directory)))


@FEW
@given(damaged(b'{"tcbInfo":{"a":1},"signature":"' + b"ab" * 64 + b'"}', LIST, LIST.hex().encode()))
def test_answer_of_intel_when_anything_then_read_or_our_error(body: bytes) -> None:
    for read in (lambda: _document("url", body, "tcbInfo"), lambda: _crl("url", body)):
        try:
            assert read()
        except SecuretfError:
            continue


@FEW
@given(st.sampled_from(Platform), damaged(QUOTE, REPORT))
def test_need_when_evidence_is_anything_then_found_or_our_error(platform: Platform, raw: bytes) -> None:
    try:
        assert isinstance(needs_of(Evidence(platform, raw)), tuple)
    except SecuretfError:
        return
