"""Attestation: what releases a Provision, and each thing that must not."""

import pytest

from securetf.appraisal import ear
from securetf.cas.service.challenges import Challenges
from securetf.claims import Evidence, Platform
from securetf.errors import (
    BindingError,
    ConflictError,
    LimitError,
    ManifestHashError,
    MeasurementError,
    NonceError,
    NotFoundError,
    PlatformNotAllowedError,
    SignatureError,
    SimulationRefusedError,
    UnsealError,
    UnsupportedPlatformError,
)
from securetf.evidence import binding
from securetf.provisioning import HpkeKeyPair, open_sealed
from securetf.verifier import verify
from securetf.wire import CasEvidenceRequest, ChallengeRequest

from .conftest import SESSION, Cas, TurnedClock, Workload

ROOT = b"\x11" * 32
PINNED = f'freshness = "pinned"\nroot = "sha256:{ROOT.hex()}"'
TRAINER_WITH_CODE = 'command = ["true"]\nvolumes = { code = "/app:ro", model = "/model:rw" }'


class TestRelease:
    def test_an_attested_workload_gets_what_the_manifest_says(self, packed: Cas) -> None:
        got = packed.attest()
        assert got.provision is not None
        assert {grant.name: (grant.writable, grant.mount_path) for grant in got.provision.volumes} == {
            "data": (False, "/data"),
            "model": (True, "/model"),
        }
        assert (got.grant("data").seq, got.grant("model").epoch) == (1, 1)
        assert len(got.provision.secrets["token"]) == 32

    def test_the_token_names_the_workload_its_key_and_the_simulation(self, packed: Cas) -> None:
        got = packed.attest()
        assert got.response is not None
        public = packed.context.identity.token_key.public_key()
        claims = ear.check_insecure_simulation(
            got.response.token,
            keys={ear.key_id(public): public},
            issuer=f"securetf-cas:{packed.context.identity.spki_sha256}",
            audience=f"securetf-session:{SESSION}",
            nonce=None,
            now=packed.clock.now(),
        )
        assert claims.simulated
        assert claims.binding is ear.Binding.KEY
        assert claims.subject.endswith("/acme/digits/trainer/0")
        assert claims.confirmation_jwk == ear.confirmation_jwk(got.tls.private.public_key())

    def test_only_the_attested_key_opens_the_provision(self, packed: Cas) -> None:
        got = packed.attest()
        assert got.response is not None
        with pytest.raises(UnsealError, match="does not open with this key"):
            open_sealed(got.response.sealed_provision, HpkeKeyPair.generate(), b"")

    def test_the_epoch_is_raised_durably(self, packed: Cas) -> None:
        packed.attest()
        packed.restart()
        assert packed.attest().grant("model").epoch == 2

    def test_a_pinned_root_is_part_of_the_measured_identity(self, cas: Cas) -> None:
        cas.create(cas.manifest(volumes__code=PINNED, workloads__trainer=TRAINER_WITH_CODE))
        cas.advance(cas.grant("packing", "code"), cas.key, new_root=ROOT)
        got = cas.attest(roots={"code": ROOT})
        assert got.grant("code").root == ROOT
        with pytest.raises(MeasurementError, match="rtmr3"):
            cas.attest(roots={"code": b"\x22" * 32})
        with pytest.raises(MeasurementError, match="rtmr3"):
            cas.attest()


class TestRefusals:
    def test_a_used_nonce(self, packed: Cas) -> None:
        workload = Workload()
        request = packed.attest_request(workload)
        packed.send(workload, request)
        with pytest.raises(NonceError, match="was used before"):
            packed.send(workload, request)

    def test_an_expired_nonce(self, packed: Cas) -> None:
        workload = Workload()
        request = packed.attest_request(workload)
        packed.clock.turn(61)
        with pytest.raises(NonceError, match="older than 60 s"):
            packed.send(workload, request)

    def test_an_invented_nonce(self, packed: Cas) -> None:
        with pytest.raises(NonceError, match="was not issued for trainer of acme/digits"):
            packed.attest(nonce=b"n" * 32)

    def test_a_nonce_of_another_workload(self, packed: Cas) -> None:
        other = packed.service.attestation.challenge(ChallengeRequest(session=SESSION, workload="other"))
        with pytest.raises(NonceError, match="was not issued for trainer"):
            packed.attest(nonce=other.nonce)

    def test_a_nonce_from_before_a_restart(self, packed: Cas) -> None:
        workload = Workload()
        request = packed.attest_request(workload)
        packed.restart()
        with pytest.raises(NonceError, match="before this CAS was started"):
            packed.send(workload, request)

    def test_a_manifest_that_is_not_current(self, packed: Cas) -> None:
        old = packed.read().manifest
        packed.update(secrets__more='kind = "random"\nsize_bytes = 8')
        with pytest.raises(ManifestHashError, match="current in acme/digits is sha256:"):
            packed.attest(text=old)

    def test_an_unknown_session_and_workload(self, cas: Cas) -> None:
        with pytest.raises(NotFoundError, match="there is no session"):
            cas.attest(text=cas.manifest())
        cas.create()
        with pytest.raises(NotFoundError, match="has no workload miner"):
            cas.attest(named="miner")

    def test_another_measurement(self, cas: Cas) -> None:
        cas.create(cas.manifest(appraisal__insecure_simulation=f'mr_td = ["{"0" * 96}"]'))
        cas.pack()
        with pytest.raises(MeasurementError, match="mr_td"):
            cas.attest()

    def test_a_platform_without_reference_values(self, cas: Cas) -> None:
        cas.create(cas.manifest(appraisal__insecure_simulation="-", appraisal__tdx=f'mr_td = ["{"0" * 96}"]'))
        with pytest.raises(PlatformNotAllowedError, match=r"has no `\[appraisal.insecure_simulation\]`"):
            cas.attest()

    def test_simulation_where_only_hardware_counts(self, packed: Cas) -> None:
        packed.context.verifiers = {}
        with pytest.raises(SimulationRefusedError, match="only hardware counts here"):
            packed.attest()

    def test_simulated_evidence_under_the_name_of_hardware(self, cas: Cas) -> None:
        policy = f'mr_td = ["{cas.measurement}"]'
        cas.create(cas.manifest(appraisal__tdx=policy))
        cas.pack()
        with pytest.raises(UnsupportedPlatformError, match="no verifier for tdx"):
            cas.attest(platform="tdx")

    def test_an_unknown_platform(self, packed: Cas) -> None:
        with pytest.raises(UnsupportedPlatformError, match="'abacus' is not a platform"):
            packed.attest(platform="abacus")

    def test_a_key_that_the_evidence_does_not_bind(self, packed: Cas) -> None:
        with pytest.raises(BindingError, match="report data is not the digest of this nonce"):
            packed.attest(tls_spki=Workload().tls.spki)
        with pytest.raises(BindingError, match="report data is not the digest of this nonce"):
            packed.attest(hpke_public_key=HpkeKeyPair.generate().public)

    def test_evidence_relayed_from_another_cas(self, packed: Cas) -> None:
        with pytest.raises(BindingError, match="report data is not the digest of this nonce"):
            packed.attest(cas_spki=Workload().tls.spki)

    def test_evidence_of_a_cas_as_a_workloads(self, packed: Cas) -> None:
        with pytest.raises(BindingError, match="report data is not the digest of this nonce"):
            packed.attest(role=binding.Role.CAS)

    def test_a_flipped_bit_in_the_evidence(self, packed: Cas) -> None:
        workload = Workload()
        good = packed.attest_request(workload)
        raw = bytearray(good.evidence)
        raw[600] ^= 1
        fields = {name: getattr(good, name) for name in good.__struct_fields__}
        with pytest.raises((SignatureError, BindingError)):
            packed.send(workload, type(good)(**{**fields, "evidence": bytes(raw)}))

    @pytest.mark.parametrize("spki", [b"x" * 91, b"\x30" * 64])
    def test_a_tls_key_that_is_none(self, packed: Cas, spki: bytes) -> None:
        with pytest.raises(BindingError, match="is not a P-256 public key"):
            packed.attest(tls_spki=spki)

    def test_an_hpke_key_that_is_none_wastes_no_epoch(self, packed: Cas) -> None:
        workload = Workload(hpke=HpkeKeyPair(None, None, b"\xff" * 1216))  # type: ignore[arg-type]
        with pytest.raises(UnsealError, match="is not valid"):
            packed.send(workload, packed.attest_request(workload))
        assert packed.attest().grant("model").epoch == 1

    def test_a_volume_that_was_never_packed(self, cas: Cas) -> None:
        cas.create()
        with pytest.raises(ConflictError, match="volume data of acme/digits was never written"):
            cas.attest()
        assert cas.read().volumes[1].epoch == 0, "a refused attestation raised an epoch"

    def test_a_pinned_volume_of_another_root_names_both(self, cas: Cas) -> None:
        cas.create(cas.manifest(volumes__code=PINNED, workloads__trainer=TRAINER_WITH_CODE))
        other = cas.pack("code")
        with pytest.raises(ConflictError, match=f"sha256:{ROOT.hex()}, the CAS has sha256:{other.hex()}"):
            cas.attest(roots={"code": ROOT})

    def test_a_secret_without_a_value(self, cas: Cas) -> None:
        cas.create(cas.manifest(secrets__token='kind = "value"'))  # noqa: S106
        cas.pack()
        with pytest.raises(ConflictError, match="secret token of acme/digits has no value yet"):
            cas.attest()

    def test_each_refusal_is_in_the_log_with_its_reason(self, packed: Cas) -> None:
        with pytest.raises(NonceError):
            packed.attest(nonce=b"n" * 32)
        entry = packed.audit()[-1]
        assert (entry["verdict"], entry["code"], entry["workload"]) == ("refused", "STF-1208", "trainer")
        assert "was not issued" in entry["reason"]
        assert "released" not in entry
        assert entry["simulated"] is True


class TestChallenges:
    def test_memory_is_bounded_by_what_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = TurnedClock()
        challenges = Challenges(clock)
        monkeypatch.setattr("securetf.cas.service.challenges.MAX_USED", 3)
        nonces = [challenges.issue("a/b", "w", 0) for _ in range(1000)]
        assert len(set(nonces)) == 1000
        for nonce in nonces[:3]:
            challenges.consume(nonce, "a/b", "w", 0)
        with pytest.raises(LimitError, match="more than 3 attestations in 60 s"):
            challenges.consume(nonces[3], "a/b", "w", 0)
        clock.turn(61)
        challenges.consume(challenges.issue("a/b", "w", 0), "a/b", "w", 0)

    def test_an_instance_has_its_own(self) -> None:
        challenges = Challenges(TurnedClock())
        with pytest.raises(NonceError):
            challenges.consume(challenges.issue("a/b", "w", 0), "a/b", "w", 1)


class TestCasEvidence:
    def test_it_binds_the_nonce_and_all_keys_under_the_role_cas(self, cas: Cas) -> None:
        answer = cas.service.evidence(CasEvidenceRequest(nonce=b"n" * 32))
        expected = binding.report_data(
            role=binding.Role.CAS,
            nonce=b"n" * 32,
            tls_spki=cas.context.identity.spki,
            hpke_public_key=answer.hpke_public_key + answer.audit_public_key,
            cas_spki=cas.context.identity.spki,
            exporter=None,
            manifest_hash=None,
        )
        evidence = Evidence(Platform(answer.platform), answer.evidence)
        claims = verify(
            evidence, verifiers=cas.context.verifiers, expected_report_data=expected, now=cas.clock.now()
        )
        assert claims.simulated

    def test_the_identity_stays_over_a_restart(self, cas: Cas) -> None:
        before = cas.context.identity.spki_sha256
        cas.restart()
        assert cas.context.identity.spki_sha256 == before

    def test_status_says_simulated(self, cas: Cas) -> None:
        assert cas.service.status().simulated
