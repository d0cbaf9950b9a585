"""Negative cases of tlslite-ng against a tunnel port: `tlslite_cases.py IP:PORT`; no handshake may be of use.

docs/how-to/check-the-tunnel-port.md says how to run it. Exit status 1 if a case got an answer.
"""

import socket
import sys
from typing import Any

from tlslite.api import HandshakeSettings, TLSConnection

TLS10, TLS11, TLS12, TLS13 = (3, 1), (3, 2), (3, 3), (3, 4)
RESUME = b"\x01\x02\x00\x20" + bytes(32)
RAW = {
    "zeros": bytes(64),
    "record of 65535 bytes": b"\x16\x03\x01\xff\xff" + b"a" * 100,
    "SSLv2 hello": b"\x80\x2e\x01\x00\x02" + bytes(43),
    "application data first": b"\x17\x03\x03\x00\x20" + b"a" * 32,
    "empty handshake record": b"\x16\x03\x01\x00\x00",
    "heartbeat": b"\x18\x03\x03\x00\x03\x01\x40\x00",
}
CASES: dict[str, dict[str, Any]] = {
    "TLS 1.3, no certificate": {},
    "TLS 1.2": {"minVersion": TLS12, "maxVersion": TLS12},
    "TLS 1.0 and 1.1": {"minVersion": TLS10, "maxVersion": TLS11},
    "ALPN h2": {"alpn": b"h2"},
    "ChaCha20 only": {"cipherNames": ["chacha20-poly1305"]},
    "P-256 key agreement only": {"eccCurves": ["secp256r1"], "keyShares": ["secp256r1"], "dhGroups": []},
}


def connect(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    stream = socket.create_connection((host, int(port)), 5)
    stream.settimeout(15)
    return stream


def handshake(address: str, settings: dict[str, Any]) -> bytes:
    chosen = HandshakeSettings()
    changes = {"minVersion": TLS13, "maxVersion": TLS13, **settings}
    protocol = changes.pop("alpn", b"securetf-net/1")
    for name, value in changes.items():
        setattr(chosen, name, value)
    connection = TLSConnection(connect(address))
    connection.handshakeClientCert(settings=chosen, alpn=[bytearray(protocol)])
    connection.write(RESUME)
    return bytes(connection.read(max=10, min=1))


def main() -> int:
    address, bad = sys.argv[1], 0
    for name, settings in CASES.items():
        try:
            got = handshake(address, settings)
            bad += 1
            print(f"{name}: ANSWERED {got!r}")
        except Exception as error:  # noqa: BLE001  (whatever ends the attempt is a refusal)
            print(f"{name}: refused, {type(error).__name__} {error}")
    for name, data in RAW.items():
        stream = connect(address)
        stream.sendall(data)
        try:
            got = stream.recv(100)
        except OSError as error:
            got = str(error).encode()
        bad += got[:1] not in {b"", b"\x15"} and b"reset" not in got
        print(f"{name}: {got!r}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
