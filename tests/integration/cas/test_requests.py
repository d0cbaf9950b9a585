"""How the process meets bad requests."""

import json
import os
import socket
import ssl

import pytest

from securetf.cas_client import CasClient, CasTrust
from securetf.errors import (
    NotFoundError,
    UsageError,
)
from securetf.keys import OwnerKey

from .conftest import Process


class TestBadRequests:
    @pytest.mark.parametrize(
        ("body", "problem"),
        [
            (b'{"nonce":"' + b"A" * 42, "truncated"),
            (b"", "truncated"),
            (b'{"nonce":"AAAA"}', "CasEvidenceRequest"),
            (b'{"nonce":"' + b"A" * 43 + b'=","x":1}', "unknown field `x`"),
            (b"[" * 100 + b"]" * 100, "nested deeper"),
        ],
    )
    def test_a_bad_body_is_refused_with_its_reason(self, cas: Process, body: bytes, problem: str) -> None:
        status, document = cas.post("/v1/evidence", body)
        assert status in (400, 429)
        assert problem in document["problem"]
        assert document["code"] in ("STF-1001", "STF-1405")
        assert document["fix"]

    def test_a_body_that_stops_early_harms_nobody(self, cas: Process, trust: CasTrust) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", cas.port), 10) as plain:
            secured = context.wrap_socket(plain)
            secured.sendall(b'POST /v1/evidence HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"nonce"')
            secured.close()
        with CasClient(trust) as client:
            assert client.status().status == "ready"

    def test_a_body_that_is_too_large_is_refused_before_it_is_read(self, cas: Process) -> None:
        answer = cas.raw(
            b"POST /v1/evidence HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1048577\r\n\r\n{"
        )
        assert b"429" in answer.splitlines()[0]
        assert b"larger than 1048576 bytes" in answer

    def test_an_unsigned_request_is_refused(self, cas: Process) -> None:
        status, document = cas.post("/v1/sessions", b'{"manifest":"x"}')
        assert (status, document["code"]) == (403, "STF-1401")
        assert "not signed: content-digest, securetf-cas, signature-input, signature" in document["problem"]

    @pytest.mark.parametrize("path", ["/", "/v1/nonsuch", "/v1/../etc/passwd", "/v1/attest/"])
    def test_an_unknown_path_is_refused_with_an_error_document(self, cas: Process, path: str) -> None:
        status, document = cas.post(path, b"")
        assert status in (404, 405)
        assert document["code"] == "STF-1001"

    def test_a_wrong_method_is_refused(self, cas: Process) -> None:
        status, document = cas.post("/v1/status", b"")
        assert (status, document["code"]) == (405, "STF-1001")

    def test_a_stray_query_is_refused(self, cas: Process) -> None:
        status, document = cas.post("/v1/challenge?debug=1", b'{"session":"a/b","workload":"w"}')
        assert (status, document["problem"]) == (400, "unknown query parameter 'debug'")

    def test_garbage_is_no_defect(self, cas: Process) -> None:
        cas.raw(os.urandom(200) + b"\r\n\r\n")
        assert "defect" not in (cas.directory / "log").read_text()

    def test_errors_arrive_as_their_class(self, trust: CasTrust) -> None:
        key = OwnerKey.generate()
        with CasClient(trust) as client:
            with pytest.raises(NotFoundError, match="there is no session acme/nonsuch"):
                client.read_session("acme/nonsuch", key)
            with pytest.raises(UsageError, match="is not tenant/session"):
                client.read_session("nonsuch", key)
            with pytest.raises(UsageError, match="cannot be a name"):
                client.read_session("acme/..", key)
            with pytest.raises(UsageError, match="holds no writing grant"):
                client.advance(b"i" * 16, epoch=1, seq=0, root=bytes(32), new_seq=1, new_root=bytes(32))

    def test_a_challenge_of_an_unknown_session_says_nothing_about_it(self, cas: Process) -> None:
        status, _ = cas.post("/v1/challenge", b'{"session":"no/such","workload":"w"}')
        assert status == 200

    def test_the_api_document_is_served(self, cas: Process) -> None:
        answer = cas.raw(b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        document = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert document["openapi"] == "3.1.0"
        assert "/v1/attest" in document["paths"]
