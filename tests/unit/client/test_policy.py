"""The client's policy file is strict: what it does not name is not accepted, what it misspells is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from securetf.cli import call
from securetf.client import load_policy, parse_policy
from securetf.client.policy import MAX_SIZE
from securetf.service_errors import ClientPolicyError
from support.outside_proof import SOFTWARE, Cas, policy_text

PINS = f'[cas]\nspki_sha256 = "{"ab" * 32}"\naudit_public_key = "{"cd" * 32}"\n'


@pytest.fixture
def text(cas: Cas, tmp_path: Path) -> str:
    return policy_text(cas.trust(tmp_path / "cas.json"))


def test_policy_when_it_names_a_trust_file_takes_it_from_beside_itself(
    text: str, cas: Cas, tmp_path: Path
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text.replace(str(tmp_path / "cas.json"), "cas.json"))
    policy = load_policy(path)
    assert policy.cas.spki_sha256 == cas.spki_sha256
    assert (policy.cas.simulated, policy.simulation_accepted) == (False, False)
    assert list(policy.platforms) == ["tdx"]


def test_policy_when_it_pins_keys_needs_no_trust_file(text: str, tmp_path: Path) -> None:
    pinned = PINS + text[text.index("[service]") :]
    policy = parse_policy(f"version = 1\n{pinned}".encode(), directory=tmp_path)
    assert (policy.cas.spki_sha256, policy.cas.simulated) == ("ab" * 32, None)


Change = Callable[[str], str]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.replace("version = 1", "version = 2"), "`version` is 2"),
        (lambda t: t.replace("version = 1", ""), "`version` is missing"),
        (lambda t: t.replace("mr_td", "mrtd"), "`appraisal.tdx.mrtd` is not a known key"),
        (lambda t: t.replace("[appraisal.tdx]", "[appraisal.tdxx]"), "tdxx"),
        (lambda t: t.replace(SOFTWARE, "01"), r"`appraisal.tdx.mr_td\[0\]` is \"01\", expected 96"),
        (lambda t: t.replace(f'"{SOFTWARE}"', ""), "is an empty list, which allows nothing"),
        (lambda t: t[: t.index("[appraisal")], "names no platform, which allows nothing"),
        (lambda t: t.replace("[appraisal.tdx]", "[appraisal.insecure_simulation]"), "write the table"),
        (lambda t: t + f'[insecure_simulation]\nmr_td = ["{SOFTWARE}"]\n', "beside hardware"),
        (lambda t: t.replace("acme/digits", "acme"), "`service.session`"),
        (lambda t: t.replace("[appraisal", "[service.volumes.m]\n[appraisal"), "volumes.m` says nothing"),
        (lambda t: t.replace("[appraisal", "[service.volumes.m]\nroots = []\n[appraisal"), "allows nothing"),
        (lambda t: t.replace('workload = "server"', 'workload = "server"\nmaximum_age_s = 301'), "1 to 300"),
        (lambda t: t.replace("[cas]", 'expires = "2026-02-30T00:00:00Z"\n[cas]'), "which is no date"),
        (lambda t: t.replace("[cas]", 'expires = "tomorrow"\n[cas]'), "expected a moment in UTC"),
        (lambda t: t.replace("cas.json", "none.json"), "`cas.trust`: .* cannot be read"),
        (lambda t: t.replace("[cas]", PINS), "by neither `trust` alone nor both"),
        (lambda t: f"version = 1\n[cas]\n{t[t.index('[service]') :]}", "by neither `trust` alone nor both"),
        (lambda t: t + "=", "is not TOML"),
        (lambda t: t + "#" * MAX_SIZE, "is larger than"),
    ],
)  # fmt: skip
def test_policy_when_something_is_wrong_is_refused_by_name(
    change: Change, reason: str, text: str, tmp_path: Path
) -> None:
    with pytest.raises(ClientPolicyError, match=reason):
        parse_policy(change(text).encode(), directory=tmp_path)


def test_policy_when_not_utf8_or_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ClientPolicyError, match="UTF-8"):
        parse_policy(b"\xff", directory=tmp_path)
    assert call(["proxy", "--to", "https://127.0.0.1:1", "--policy", str(tmp_path / "none")]) == 12
    assert "error [STF-1120]" in capsys.readouterr().err
