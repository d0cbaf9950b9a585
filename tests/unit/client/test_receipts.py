"""Receipts are verified offline from the pinned CAS down to the answer, and up to who made the model."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from securetf.cli import call
from securetf.client import Observation, parse_policy
from securetf.client.observation import save_observation
from securetf.client.policy import ClientPolicy
from securetf.client.receipts import Proofs, ReceiptVerdict, verify
from securetf.client.verdict import Status
from securetf.keys.jws import sign_compact
from securetf.keys.workload import WorkloadKey
from securetf.receipt import Receipt, ReceiptModel, attested_spki, ear_digest, sign_receipt
from securetf.service_errors import ReceiptError
from securetf.wire import AuditEntryLine, AuditHead
from securetf.wire.audit import START, ExportedHead, follow, head_text
from securetf.wire.statement import DELEGATION_TYPE, Delegation, Statement
from support.outside_proof import OTHER_ROOT, OTHER_SOFTWARE, ROOT, SOFTWARE, Cas, Member, Says, policy_text

REQUEST, RESPONSE = b"a document", b"its text"
MANIFEST = f"sha256:{'1f' * 32}"
TRAINER = "p256:the-trainer"


class Answer:
    """A service's receipt for one answer, and the proofs that a customer has of it."""

    def __init__(self, cas: Cas, says: Says | None = None) -> None:
        self.cas, self.member, self.key = cas, Member(cas, says), WorkloadKey.generate()
        self.statement = msgspec.json.decode(self.member.statement(bytes(32)), type=Statement)
        self.ear, self.now = self.statement.ear, int(datetime.now(UTC).timestamp())
        self.jti, spki = attested_spki(self.ear)
        assert spki == self.member.attested.spki
        self.receipt = Receipt(
            session="acme/digits",
            workload="server",
            instance=0,
            manifest_hash=MANIFEST,
            model=ReceiptModel(
                name="lines", version=3, sha256="cc" * 32, volume="models", volume_root=ROOT, volume_epoch=3
            ),
            request_sha256=hashlib.sha256(REQUEST).hexdigest(),
            response_sha256=hashlib.sha256(RESPONSE).hexdigest(),
            ear_jti=self.jti,
            ear_sha256=ear_digest(self.ear),
            attested_key=spki,
            delegation=self.delegate(self.member.attested),
            iat=self.now,
        )

    def delegate(self, attested: WorkloadKey) -> str:
        said = Delegation(
            receipt_key=self.key.spki,
            session="acme/digits",
            workload="server",
            instance=0,
            manifest_hash=MANIFEST,
            iat=self.now - 60,
            exp=self.now + 3540,
        )
        return sign_compact(attested, DELEGATION_TYPE, msgspec.json.encode(said))

    def token(self, **changes: Any) -> str:
        return sign_receipt(msgspec.structs.replace(self.receipt, **changes), self.key)

    def observation(self) -> Observation:
        return Observation(
            url="https://service.example",
            observed_at="",
            tls_version="TLSv1.3",
            tls_spki=self.member.network.spki,
            nonce=bytes(32),
            statement=msgspec.json.encode(self.statement),
        )

    def entries(self) -> list[dict[str, Any]]:
        """What a CAS records: the trainer attests and commits the model, the server attests."""
        common = {"verdict": "granted", "simulated": False, "session": "acme/digits", "platform": "tdx"}
        server = {"workload": "server", "measurement": SOFTWARE, "manifest_hash": MANIFEST}
        return [
            {**common, "action": "attest", "actor": TRAINER, "workload": "trainer", "measurement": "07" * 48,
             "manifest_hash": MANIFEST, "details": {"ear_jti": "trainers", "ear_sha256": "00" * 32}},
            {**common, "action": "volume.advance", "actor": TRAINER,
             "details": {"volume": "models", "epoch": "3", "seq": "4", "root": ROOT}},
            {**common, "action": "attest", "verdict": "refused", "actor": self.member.attested.key_id,
             **server, "details": {"ear_jti": self.jti, "ear_sha256": "11" * 32}},
            {**common, "action": "token", "actor": self.member.attested.key_id, **server,
             "details": {"ear_jti": self.jti, "ear_sha256": ear_digest(self.ear)}},
        ]  # fmt: skip

    def export(self, entries: list[dict[str, Any]] | None = None, cas: Cas | None = None) -> list[str]:
        time = (datetime.fromtimestamp(self.now, UTC) - timedelta(seconds=1)).isoformat(
            timespec="milliseconds"
        )
        signer, texts = cas or self.cas, []
        for seq, entry in enumerate(self.entries() if entries is None else entries):
            texts.append(json.dumps({"seq": seq, "time": time, "salt": "00", **entry}))
        lines = [
            AuditEntryLine(seq=seq, leaf=hashlib.sha256(text.encode()).digest(), entry=text)
            for seq, text in enumerate(texts)
        ]
        fields: dict[str, Any] = {"length": len(lines), "digest": follow(START, 0, lines), "time": time}
        signature = signer.audit.sign(head_text(**fields, simulated=False, cas=signer.spki_sha256))
        head = AuditHead(**fields, simulated=False, signature=signature)
        last = ExportedHead(cas=signer.spki_sha256, head=head)
        return [msgspec.json.encode(line).decode() for line in (*lines, last)]


@pytest.fixture
def answer(cas: Cas) -> Answer:
    return Answer(cas)


@pytest.fixture
def judge(cas: Cas, tmp_path: Path) -> Callable[..., ReceiptVerdict]:
    service = (
        f'manifest_hashes = ["{MANIFEST}"]\n[service.volumes.models]\nroots = ["{ROOT}"]\nminimum_epoch = 3'
    )
    policy = policy_text(cas.trust(tmp_path / "cas.json"), service=service)

    def run(token: str, *, text: str = policy, **proofs: Any) -> ReceiptVerdict:
        return verify(token, _policy(text, tmp_path), Proofs(**proofs))

    return run


def _policy(text: str, directory: Path) -> ClientPolicy:
    return parse_policy(text.encode(), directory=directory)


def failed(verdict: ReceiptVerdict) -> dict[str, str]:
    return {one.name: one.found for one in verdict.checks if one.status is Status.FAIL}


Judge = Callable[..., ReceiptVerdict]


def test_receipt_when_everything_is_at_hand_holds_and_names_who_made_the_model(
    answer: Answer, judge: Judge
) -> None:
    verdict = judge(
        answer.token(),
        observation=answer.observation(),
        audit=answer.export(),
        request=REQUEST,
        response=RESPONSE,
    )
    assert failed(verdict) == {}
    assert verdict.require() == answer.receipt
    assert [one.name for one in verdict.checks] == [
        "form", "policy", "audit", "attestation", "measurement", "audited-attestation", "audited-measurement",
        "signatures", "service", "model", "request", "response", "lineage",
    ]  # fmt: skip
    lineage = verdict.checks[-1].found
    assert "entry 1: trainer/0, attested in entry 0" in lineage
    assert "07" * 48 in lineage
    assert "jti trainers" in lineage


@pytest.mark.parametrize("proof", ["observation", "audit"])
def test_receipt_when_one_proof_of_the_key_is_at_hand_holds(proof: str, answer: Answer, judge: Judge) -> None:
    proofs = {"observation": answer.observation()} if proof == "observation" else {"audit": answer.export()}
    assert judge(answer.token(), **proofs).ok


def test_receipt_when_nothing_shows_the_attestation_does_not_hold(answer: Answer, judge: Judge) -> None:
    verdict = judge(answer.token(), request=REQUEST)
    assert list(failed(verdict)) == ["attestation"]
    with pytest.raises(ReceiptError, match="nothing was given that shows it"):
        verdict.require()


@pytest.mark.parametrize(
    ("changes", "check", "reason"),
    [
        ({"session": "acme/other"}, "service", "expected server of acme/digits"),
        ({"workload": "trainer"}, "service", "trainer of acme/digits"),
        ({"manifest_hash": f"sha256:{'2f' * 32}"}, "service", "accepted: sha256:1f"),
        ({"manifest_hash": f"sha256:{'2f' * 32}"}, "signatures", "its key was delegated for"),
        ({"iat": 10}, "signatures", "delegated from"),
        ({"iat": 10}, "attestation", "good for 5 minutes"),
        ({"ear_jti": "another"}, "audited-attestation", "no attestation of the key"),
        ({"ear_sha256": "00" * 32}, "attestation", "another digest"),
        ({"ear_sha256": "00" * 32}, "audited-attestation", "tells of"),
        ({"attested_key": WorkloadKey.generate().spki}, "attestation", "another attested key"),
        ({"attested_key": WorkloadKey.generate().spki}, "signatures", "does not hold"),
        ({"request_sha256": "00" * 32}, "request", "the receipt says 0000"),
        ({"response_sha256": "00" * 32}, "response", "the receipt says 0000"),
    ],
)
def test_receipt_when_one_thing_differs_fails_that_check(
    changes: dict[str, Any], check: str, reason: str, answer: Answer, judge: Judge
) -> None:
    verdict = judge(
        answer.token(**changes),
        observation=answer.observation(),
        audit=answer.export(),
        request=REQUEST,
        response=RESPONSE,
    )
    assert reason in failed(verdict)[check]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"volume_root": OTHER_ROOT}, "has the root"),
        ({"volume_epoch": 2}, "in epoch 2, accepted from 3"),
        ({"volume": ""}, "was in no volume, accepted: models"),
        ({"volume": "other"}, "was in other, accepted: models"),
    ],
)
def test_receipt_when_of_another_model_fails(
    model: dict[str, Any], reason: str, answer: Answer, judge: Judge
) -> None:
    changed = msgspec.structs.replace(answer.receipt.model, **model)
    assert reason in failed(judge(answer.token(model=changed), audit=answer.export()))["model"]


def test_receipt_when_signed_by_a_key_of_nobody_fails(answer: Answer, judge: Judge) -> None:
    thief = WorkloadKey.generate()
    own = answer.token(delegation=answer.delegate(thief))
    assert (
        "delegation+jwt does not hold" in failed(judge(own, observation=answer.observation()))["signatures"]
    )
    assert "not a receipt" in failed(judge("a.b.c"))["form"]


def test_receipt_when_another_software_signed_fails_by_both_proofs(cas: Cas, judge: Judge) -> None:
    other = Answer(cas, Says(measurement=OTHER_SOFTWARE))
    entries = other.entries()
    entries[3]["measurement"] = OTHER_SOFTWARE
    found = failed(judge(other.token(), observation=other.observation(), audit=other.export(entries)))
    assert {"measurement", "audited-measurement"} <= set(found)


def test_receipt_when_simulated_fails_unless_the_policy_says_so(
    cas: Cas, judge: Judge, tmp_path: Path
) -> None:
    other = Answer(cas, Says(simulated=True))
    entries = other.entries()
    entries[3] |= {"platform": "insecure_simulation", "simulated": True}
    proofs = {"observation": other.observation(), "audit": other.export(entries)}
    found = failed(judge(other.token(), **proofs))
    assert "INSECURE SIMULATION" in found["measurement"]
    assert "INSECURE SIMULATION" in found["audited-measurement"]
    text = policy_text(tmp_path / "cas.json", platform=f'[insecure_simulation]\nmr_td = ["{SOFTWARE}"]\n')
    assert judge(other.token(), text=text, **proofs).ok


def test_lineage_when_an_owner_packed_the_model_names_the_owner(answer: Answer, judge: Judge) -> None:
    entries = answer.entries()
    entries[1]["actor"] = f"ed25519:{'aa' * 32}"
    verdict = judge(answer.token(), audit=answer.export(entries))
    assert verdict.ok
    assert "the owner ed25519:aa" in verdict.checks[-1].found


@pytest.mark.parametrize(
    ("change", "check", "reason"),
    [
        (lambda entries: entries.pop(1), "lineage", "does not say who committed root"),
        (lambda entries: entries[1].update(verdict="refused"), "lineage", "does not say who committed root"),
        (lambda entries: entries.insert(0, entries.pop(1)), "lineage", "no attestation of the key p256:the-"),
        (lambda entries: entries.pop(3), "audited-attestation", "no attestation of the key"),
        (lambda entries: entries[3].update(workload="trainer"), "audited-attestation", "tells of"),
    ],
)
def test_receipt_when_the_audit_log_lacks_a_link_fails(
    change: Callable[[list[dict[str, Any]]], Any], check: str, reason: str, answer: Answer, judge: Judge
) -> None:
    entries = answer.entries()
    change(entries)
    assert reason in failed(judge(answer.token(), audit=answer.export(entries)))[check]


def test_receipt_when_the_export_is_changed_or_of_another_cas_fails(answer: Answer, judge: Judge) -> None:
    lines = answer.export()
    for forged in (lines[:-1], [lines[0].replace("trainer", "trajner"), *lines[1:]], [], ["{}"]):
        assert "audit" in failed(judge(answer.token(), audit=forged))
    other = Cas(audit=answer.cas.audit)  # same audit key, another CAS
    assert "another CAS" in failed(judge(answer.token(), audit=answer.export(cas=other)))["audit"]


def test_command_when_given_files_prints_checks_and_verdict(
    answer: Answer, cas: Cas, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {name: tmp_path / name for name in ("receipt", "policy", "saved", "audit", "request", "response")}
    names["receipt"].write_text(answer.token() + "\n")
    names["policy"].write_text(policy_text(cas.trust(tmp_path / "cas.json")))
    save_observation(answer.observation(), names["saved"])
    names["audit"].write_text("\n".join(answer.export()) + "\n")
    names["request"].write_bytes(REQUEST)
    names["response"].write_bytes(RESPONSE)
    common = ["receipt", "verify", str(names["receipt"]), "--policy", str(names["policy"])]
    full = [*common, "--statement", str(names["saved"]), "--audit", str(names["audit"]),
            "--request", str(names["request"]), "--response", str(names["response"])]  # fmt: skip
    assert call(full) == 0
    assert "verdict: the receipt holds" in capsys.readouterr().out
    names["response"].write_bytes(b"another text")
    assert call([*full, "--json"]) == 17
    found = capsys.readouterr()
    assert [c["name"] for c in json.loads(found.out)["checks"] if c["status"] == "fail"] == ["response"]
    assert "error [STF-1502]" in found.err
    assert call(["receipt", "show", str(names["receipt"])]) == 0
    assert "not checked" in capsys.readouterr().out
    assert call(["receipt", "show", str(tmp_path / "none")]) == 2
