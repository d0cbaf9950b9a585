"""Tokens for running members, and the key that they are signed with."""

from collections.abc import Iterator

import pytest
from msgspec import structs

from securetf.appraisal import ear
from securetf.cas.service import AuditDraft
from securetf.errors import FencedError, ManifestHashError, UsageError
from securetf.wire import TokenRequest
from securetf.wire.statement import check_token_key
from support.waiting import HERE, waited

from .conftest import SESSION, Cas, Workload
from .test_members import tables


@pytest.fixture
def cluster(cas: Cas) -> Iterator[Cas]:
    cas.create(cas.manifest(**tables()))
    return cas


class TestTokens:
    def test_a_token_is_about_the_new_evidence_and_changes_nothing_else(self, cluster: Cas) -> None:
        workload = cluster.attest(network=True)
        (before,) = cluster.members(workload).members
        cluster.clock.turn(50)
        claims = checked(cluster, refresh(cluster, workload))
        assert claims.subject.endswith(f"/{SESSION}/trainer/0")
        assert claims.confirmation_jwk == ear.confirmation_jwk(workload.tls.private.public_key())
        assert claims.issued_at == cluster.clock.now().replace(microsecond=0)
        (member,) = cluster.members(workload).members
        assert structs.replace(member, last_attested_at=before.last_attested_at) == before
        assert member.last_attested_at == before.last_attested_at + 50
        entry = cluster.audit()[-1]
        assert (entry["action"], entry["verdict"], entry["released"]) == ("token", "granted", ["token"])
        assert entry["details"]["ear_jti"] == claims.token_id

    def test_with_a_network_key_it_is_refused(self, cluster: Cas) -> None:
        workload = cluster.attest(network=True)
        with pytest.raises(UsageError, match="token with network key"):
            refresh(cluster, workload, keep=True)

    def test_only_the_current_member_under_the_current_manifest_gets_one(self, cluster: Cas) -> None:
        first = cluster.attest(network=True)
        second = cluster.attest(network=True)
        with pytest.raises(FencedError, match="generation 2"):
            refresh(cluster, first)
        cluster.update(**tables(lifetime_s=50))
        with pytest.raises(ManifestHashError):
            refresh(cluster, second)
        entry = cluster.audit()[-1]
        assert (entry["action"], entry["verdict"], entry["code"]) == ("token", "refused", "STF-1104")

    def test_the_token_key_is_vouched_for_by_the_audit_key(self, cluster: Cas) -> None:
        identity = cluster.context.identity
        key = check_token_key(
            cluster.service.keys(), cas=identity.spki_sha256, audit_public_key=identity.audit_public_key
        )
        assert key == identity.token_key.public_key()


def refresh(cluster: Cas, workload: Workload, *, keep: bool = False) -> str:
    network, workload.network = workload.network, workload.network if keep else None
    request = TokenRequest(**structs.asdict(cluster.attest_request(workload)))
    workload.network = network
    draft = AuditDraft(action="token")
    signed = cluster.signed(workload.tls)
    return waited(cluster.service.attestation.refresh(signed, request, draft, HERE)).token


def checked(cluster: Cas, token: str) -> ear.EarClaims:
    identity = cluster.context.identity
    key = check_token_key(
        cluster.service.keys(), cas=identity.spki_sha256, audit_public_key=identity.audit_public_key
    )
    return ear.check_insecure_simulation(
        token,
        keys={ear.key_id(key): key},
        issuer=f"securetf-cas:{identity.spki_sha256}",
        audience=f"securetf-session:{SESSION}",
        nonce=None,
        now=cluster.clock.now(),
    )
