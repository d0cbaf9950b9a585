"""The whole path over TLS: session, packing, attestation, Provision, advance."""

import hashlib
import threading
from typing import Any

import pytest

from securetf.attester.insecure_simulation import SimulatedTdx
from securetf.attester.measurement import software_measurement
from securetf.cas_client import CasClient, CasTrust
from securetf.claims import Platform
from securetf.errors import (
    FencedError,
    NonceError,
)
from securetf.keys import OwnerKey
from securetf.manifest import parse

from .conftest import SESSION, Process, manifest


class TestWholePath:
    def test_from_a_session_to_a_provision_and_an_advance(self, own: Process) -> None:
        own.start()
        text, key = manifest(software_measurement().hex()), OwnerKey.generate()
        with CasClient(own.trust()) as client:
            client.create_session(text, key)
            client.import_secret(SESSION, "token", b"the value", key)
            grant = client.packing_grant(SESSION, "data", key)
            state = {"epoch": grant.epoch, "seq": 0, "root": bytes(32)}
            client.advance(grant.volume_id, **state, new_seq=1, new_root=b"r" * 32)
            attester = SimulatedTdx(own.platform, {})
            token, provision = client.provision(SESSION, "trainer", parse(text), attester)
            assert token.count(".") == 2
            assert provision.secrets == {"token": b"the value"}
            data, model = sorted(provision.volumes, key=lambda grant: grant.name)
            assert (data.root, data.writable, model.writable) == (b"r" * 32, False, True)
            step = {"epoch": model.epoch, "seq": 0, "root": bytes(32), "new_seq": 1, "new_root": b"m" * 32}
            client.advance(model.volume_id, **step)
            client.provision(SESSION, "trainer", parse(text), attester)
            with pytest.raises(FencedError, match="is in epoch 2, this writer has 1"):
                client.advance(model.volume_id, **step)
            with pytest.raises(FencedError, match=r"is in epoch 2|does not hold the lease"):
                client.advance(model.volume_id, **{**step, "seq": 1, "root": b"m" * 32, "new_seq": 2})
            assert client.export_grant(SESSION, "data", key).root == b"r" * 32
            assert client.read_session(SESSION, key).volumes[1].root == b"m" * 32
            assert len(client.history(SESSION, key).versions) == 1
            page = client.audit(SESSION, key)
            assert page.head.length == len(page.entries)
            assert client.status().simulated
        assert b"the value" not in (own.directory / "log").read_bytes()
        assert "insecure_simulation" in (own.directory / "log").read_text()

    def test_advances_of_many_threads_are_all_kept(self, trust: CasTrust) -> None:
        key = OwnerKey.generate()
        names = [f"v{number}" for number in range(8)]
        text = '[session]\nname = "acme/threads"\n' + "".join(f"[volumes.{name}]\n" for name in names)
        with CasClient(trust) as client:
            client.create_session(text, key)
            grants = {name: client.packing_grant("acme/threads", name, key) for name in names}
            failures: list[BaseException] = []

            def work(name: str) -> None:
                try:
                    root = bytes(32)
                    for seq in range(20):
                        new = hashlib.sha256(root).digest()
                        grant = grants[name]
                        client.advance(
                            grant.volume_id, epoch=1, seq=seq, root=root, new_seq=seq + 1, new_root=new
                        )
                        root = new
                except BaseException as error:  # noqa: BLE001 - shown by the test's thread
                    failures.append(error)

            threads = [threading.Thread(target=work, args=(name,)) for name in names]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert failures == []
            assert {state.seq for state in client.read_session("acme/threads", key).volumes} == {20}


def test_what_was_attested_is_refused_over_another_connection(cas: Process, trust: CasTrust) -> None:
    class Replaying:
        """Answers each challenge with Evidence for another nonce's binding."""

        platform = Platform.INSECURE_SIMULATION

        def attest(self, report_data: bytes) -> Any:
            return SimulatedTdx(cas.platform, {}).attest(report_data)

    text, key = manifest(software_measurement().hex()).replace(SESSION, "acme/replay"), OwnerKey.generate()
    with CasClient(trust) as client:
        client.create_session(text, key)
        sent: list[bytes] = []
        send = client._transport.send

        def keep(method: str, target: str, body: bytes, *rest: Any, **named: Any) -> Any:
            sent.append(body)
            return send(method, target, body, *rest, **named)

        client._transport.send = keep  # type: ignore[method-assign]
        with pytest.raises(Exception, match="was never written"):
            client.provision("acme/replay", "trainer", parse(text), Replaying())
        status, document = cas.post("/v1/attest", sent[-1])
        assert (status, document["code"]) == (403, NonceError.code)
        assert "over this connection" in document["problem"]
