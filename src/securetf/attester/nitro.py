"""Asks a Nitro Security Module for an attestation document: `/dev/nsm`, one ioctl with CBOR in and out.

Source: Linux `include/uapi/linux/nsm.h` (the ioctl); AWS, aws-nitro-enclaves-nsm-api, `Request` and
`Response`.
"""

import ctypes
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from securetf.attester.detection import NSM
from securetf.claims import REPORT_DATA_SIZE, Evidence, Platform
from securetf.errors import AttesterError, MalformedEvidenceError
from securetf.evidence import cbor

ANSWER_SIZE_LIMIT = 0x3000  # bytes; NSM_RESPONSE_MAX_SIZE
_NSM_IOCTL = 0xC0200A00  # _IOWR(0x0A, 0, struct nsm_raw): two iovecs, request and response
_FIX = "run this inside a Nitro enclave whose kernel has the NSM driver"

Exchange = Callable[[bytes], bytes]  # one request in, one answer out


class NitroAttester:
    """Makes documents whose `user_data` is the report data; `nonce` and `public_key` are absent."""

    platform = Platform.NITRO

    def __init__(self, exchange: Exchange) -> None:
        """exchange: `device(path)` in an enclave."""
        self._exchange = exchange

    def attest(self, report_data: bytes) -> Evidence:
        """Return a fresh document that carries `report_data` (64 bytes).

        Raises:
            AttesterError: the module refused, or answered in a form that this release does not know.
        """
        if len(report_data) != REPORT_DATA_SIZE:
            raise AttesterError(
                f"report data has {len(report_data)} bytes, expected {REPORT_DATA_SIZE}", _FIX
            )
        wanted: cbor.Item = {"user_data": report_data, "nonce": None, "public_key": None}
        raw = self._exchange(cbor.encode({"Attestation": wanted}))
        try:
            answer = cbor.decode_with_open_maps(raw)
        except MalformedEvidenceError as error:
            raise AttesterError(f"the NSM's answer cannot be read: {error.problem}", _FIX) from None
        match answer:
            case {"Attestation": {"document": bytes(document)}}:
                return Evidence(Platform.NITRO, document)
            case {"Error": reason}:
                raise AttesterError(f"the NSM refused: {reason!r}", _FIX)
        raise AttesterError("the NSM's answer is neither a document nor an error", _FIX)


def device(path: Path = NSM) -> Exchange:
    """Return the exchange with the module behind a device file; it is opened for each request."""

    def exchange(request: bytes) -> bytes:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise AttesterError(f"{path} cannot be opened: {error.strerror}", _FIX) from None
        try:
            return _ioctl(descriptor, request)
        except OSError as error:
            raise AttesterError(f"{path} did not answer: {error.strerror}", _FIX) from None
        finally:
            os.close(descriptor)

    return exchange


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Message(ctypes.Structure):
    _fields_ = (("request", _Vector), ("response", _Vector))


def _ioctl(descriptor: int, request: bytes) -> bytes:
    question = ctypes.create_string_buffer(request, len(request))
    answer = ctypes.create_string_buffer(ANSWER_SIZE_LIMIT)
    message = _Message(
        _Vector(ctypes.addressof(question), len(request)),
        _Vector(ctypes.addressof(answer), ANSWER_SIZE_LIMIT),
    )
    fcntl.ioctl(descriptor, _NSM_IOCTL, message)
    return answer.raw[: message.response.size]
