"""The signatures of a DCAP quote, checked a second time by other means: own offsets, DER walk and ECDSA.

Shares nothing with `securetf` or its libraries; a differential oracle for tests, slow and not constant-time.
It looks at signatures and at the root's key alone: no dates, revocation, collateral or TCB.
"""

import base64
import hashlib
import re
import struct
from collections.abc import Iterator

# P-256 (SEC 2, section 2.4.2)
P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
Point = tuple[int, int] | None


def holds(raw: bytes, root_spki_sha256: bytes) -> bool:
    """Return whether every signature of a quote holds, up to a root with this key."""
    try:
        return _holds(raw, root_spki_sha256)
    except (ValueError, IndexError, OverflowError, StopIteration, struct.error):
        return False


def _holds(raw: bytes, root_spki_sha256: bytes) -> bool:
    version = struct.unpack_from("<H", raw)[0]
    if version == 3:
        end = 48 + 384
    elif version == 4:
        end = 48 + 584
    else:
        end = 48 + 6 + struct.unpack_from("<I", raw, 50)[0]
    at = end + 4
    signature, key = raw[at : at + 64], raw[at + 64 : at + 128]
    at += 128 + (0 if version == 3 else 6)
    report, report_signature = raw[at : at + 384], raw[at + 384 : at + 448]
    size = struct.unpack_from("<H", raw, at + 448)[0]
    auth = raw[at + 450 : at + 450 + size]
    at += 450 + size
    kind, length = struct.unpack_from("<HI", raw, at)
    leaf, ca, root = map(_certificate, _pem(raw[at + 6 : at + 6 + length]))
    return (
        kind == 5
        and hashlib.sha256(root[3]).digest() == root_spki_sha256
        and _certified(root, root)
        and _certified(ca, root)
        and _certified(leaf, ca)
        and _verify(leaf[2], report, report_signature)
        and report[320:384] == hashlib.sha256(key + auth).digest() + bytes(32)
        and _verify(key, raw[:end], signature)
    )


Certificate = tuple[bytes, bytes, bytes, bytes]  # TBS, signature, public point, SubjectPublicKeyInfo


def _certified(certificate: Certificate, issuer: Certificate) -> bool:
    return _verify(issuer[2], certificate[0], certificate[1])


def _pem(text: bytes) -> Iterator[bytes]:
    for body in re.findall(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", text, re.DOTALL):
        yield base64.b64decode(body)


def _certificate(der: bytes) -> Certificate:
    tbs, _, signature = _split(_content(der))
    algorithm = bytes.fromhex("06072a8648ce3d0201")  # id-ecPublicKey
    spki = next(field for field in _split(_content(tbs)) if field[0] == 0x30 and algorithm in field[:24])
    point = _split(_content(spki))[1]
    r, s = (int.from_bytes(_content(part), "big") for part in _split(_content(_content(signature)[1:])))
    return tbs, r.to_bytes(32, "big") + s.to_bytes(32, "big"), _content(point)[2:], spki


def _split(content: bytes) -> list[bytes]:
    parts, at = [], 0
    while at < len(content):
        head, size = _size(content, at)
        parts.append(content[at : at + head + size])
        at += head + size
    return parts


def _content(der: bytes) -> bytes:
    head, size = _size(der, 0)
    return der[head : head + size]


def _size(der: bytes, at: int) -> tuple[int, int]:
    first = der[at + 1]
    if first < 0x80:
        return 2, first
    count = first & 0x7F
    return 2 + count, int.from_bytes(der[at + 2 : at + 2 + count], "big")


def _verify(key: bytes, message: bytes, signature: bytes) -> bool:
    """ECDSA with SHA-256 (FIPS 186-5, section 6.4.2). key: x then y; signature: r then s; 32 bytes each."""
    x, y = int.from_bytes(key[:32], "big"), int.from_bytes(key[32:], "big")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    on_curve = x < P and y < P and (y * y - x * x * x + 3 * x - B) % P == 0
    if len(key) != 64 or len(signature) != 64 or not on_curve or not (0 < r < N and 0 < s < N):
        return False
    digest = int.from_bytes(hashlib.sha256(message).digest(), "big")
    inverse = pow(s, -1, N)
    found = _add(_multiply(G, digest * inverse % N), _multiply((x, y), r * inverse % N))
    return found is not None and found[0] % N == r


def _add(one: Point, other: Point) -> Point:
    if one is None or other is None:
        return other if one is None else one
    if one[0] == other[0]:
        if (one[1] + other[1]) % P == 0:
            return None
        slope = (3 * one[0] * one[0] - 3) * pow(2 * one[1], -1, P) % P
    else:
        slope = (other[1] - one[1]) * pow(other[0] - one[0], -1, P) % P
    x = (slope * slope - one[0] - other[0]) % P
    return x, (slope * (one[0] - x) - one[1]) % P


def _multiply(point: Point, factor: int) -> Point:
    result: Point = None
    for bit in bin(factor)[2:]:
        result = _add(result, result)
        if bit == "1":
            result = _add(result, point)
    return result
