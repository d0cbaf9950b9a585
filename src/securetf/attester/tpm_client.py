"""TPM 2.0 commands in pure Python (TPM 2.0 Library, Part 3; sections at each command).

Commands are authorised with the empty password, as TPMs come, or with a policy session. Nothing is encrypted
between this process and the TPM: on real machines both are inside the trust boundary that the quote is about.
"""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import NoReturn

from securetf.attester.tpm_transport import Transport
from securetf.errors import AttesterError, MalformedEvidenceError, TpmResponseError
from securetf.evidence import tpm2_public
from securetf.evidence.tpm2_public import Public
from securetf.evidence.tpm2_quote import (
    DIGEST_SIZES,
    SHA256,
    Quote,
    Signature,
    encode_selection,
    parse_quote,
    parse_signature,
)
from securetf.evidence.tpm2_wire import Reader, number, sized

OWNER, NULL_HANDLE, PASSWORD, ENDORSEMENT = 0x40000001, 0x40000007, 0x40000009, 0x4000000B
ALGORITHM_NULL = 0x0010
RC_HANDLE_1 = 0x18B  # no such handle (Part 2, section 6.6.3)

_BUSY = frozenset({0x908, 0x90A, 0x920, 0x922})  # YIELDED, TESTING, NV_RATE, RETRY: ask again
_RETRIES, _PAUSE_S = 10, 0.01
_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_POLICY_SESSION = 0x01
_READ_PCR_LIMIT = 8  # digests in one TPML_DIGEST
_FIX = (
    "check the TPM with the vendor's tools; its owner and endorsement hierarchies must have empty passwords"
)


class TpmClient:
    """One connection to one TPM. Handles that it makes are flushed when it is closed."""

    def __init__(self, transport: Transport) -> None:
        """transport: `DeviceTransport` or `SocketTransport`."""
        self._transport = transport
        self._loaded: list[int] = []

    def __enter__(self) -> "TpmClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Flush what was loaded and let go of the TPM."""
        try:
            for handle in reversed(self._loaded):
                self.command("FlushContext", 0x165, b"", number(handle, 4), None)
        finally:
            self._loaded.clear()
            self._transport.close()

    def flush(self, handle: int) -> None:
        """Forget a loaded object or session (28.4)."""
        self._loaded.remove(handle)
        self.command("FlushContext", 0x165, b"", number(handle, 4), None)

    def create_primary(self, hierarchy: int, template: bytes) -> tuple[int, Public]:
        """Make the primary key of a template (TPMT_PUBLIC) and return its handle (24.1)."""
        reader = self.command(
            "CreatePrimary", 0x131, number(hierarchy, 4), _creation(template), [PASSWORD], handles_returned=1
        )
        handle = self._keep(reader)
        return handle, self._public(reader)

    def create(self, parent: int, template: bytes, session: int) -> tuple[bytes, bytes]:
        """Make a key under a parent; return its private (encrypted by the TPM) and public part (12.1)."""
        reader = self.command("Create", 0x153, number(parent, 4), _creation(template), [session])
        return reader.sized("private part", 2048), reader.sized("public part", 2048)

    def load(self, parent: int, private: bytes, public: bytes, session: int) -> int:
        """Load a key that `create` made and return its handle (12.2)."""
        parameters = sized(private) + sized(public)
        return self._keep(
            self.command("Load", 0x157, number(parent, 4), parameters, [session], handles_returned=1)
        )

    def read_public(self, handle: int) -> Public:
        """Return the public area of a loaded or persistent key (12.4)."""
        return self._public(self.command("ReadPublic", 0x173, number(handle, 4), b"", None))

    def policy_session(self) -> int:
        """Start a policy session without a key (11.1)."""
        parameters = b"".join(
            (
                sized(bytes(16)),  # nonceCaller; nothing is encrypted or salted in this session
                sized(b""),
                number(_POLICY_SESSION, 1),
                number(ALGORITHM_NULL, 2),
                number(SHA256, 2),
            )
        )
        handles = number(NULL_HANDLE, 4) * 2
        return self._keep(
            self.command("StartAuthSession", 0x176, handles, parameters, None, handles_returned=1)
        )

    def endorsement_session(self) -> int:
        """Start a policy session that satisfies the default policy of endorsement keys (23.4)."""
        session = self.policy_session()
        empty = sized(b"") * 3 + number(0, 4)  # nonceTPM, cpHashA, policyRef, no expiration
        self.command("PolicySecret", 0x151, number(ENDORSEMENT, 4) + number(session, 4), empty, [PASSWORD])
        return session

    def activate_credential(self, ak: int, ek: int, session: int, credential: bytes, seed: bytes) -> bytes:
        """Open a challenge with both keys; return its secret (12.5)."""
        parameters = sized(credential) + sized(seed)
        handles = number(ak, 4) + number(ek, 4)
        reader = self.command("ActivateCredential", 0x147, handles, parameters, [PASSWORD, session])
        return reader.sized("secret", 64)

    def quote(self, ak: int, extra_data: bytes, bank: int, pcrs: Sequence[int]) -> tuple[Quote, Signature]:
        """Return a quote over PCRs of one bank with up to 34 bytes of extra data (18.4)."""
        parameters = sized(extra_data) + number(ALGORITHM_NULL, 2) + encode_selection(bank, tuple(pcrs))
        reader = self.command("Quote", 0x158, number(ak, 4), parameters, [PASSWORD])
        try:
            return parse_quote(reader.sized("quote", 1024)), parse_signature(reader.rest())
        except MalformedEvidenceError as error:
            self._odd("Quote", error)

    def read_pcrs(self, bank: int, pcrs: Sequence[int]) -> dict[int, bytes]:
        """Return the values of PCRs (22.4), eight with each command.

        Raises:
            AttesterError: the bank is not active.
        """
        values: dict[int, bytes] = {}
        for start in range(0, len(pcrs), _READ_PCR_LIMIT):
            wanted = tuple(pcrs[start : start + _READ_PCR_LIMIT])
            reader = self.command("PCR_Read", 0x17E, b"", encode_selection(bank, wanted), None)
            reader.take("update counter", 4)
            found = reader.take("selection", len(encode_selection(bank, wanted)))
            if found != encode_selection(bank, wanted) or reader.number("count", 4) != len(wanted):
                raise AttesterError(f"the TPM has no PCR bank {bank:#06x}, or not all of {wanted}", _FIX)
            values |= {index: reader.sized("value", DIGEST_SIZES[bank]) for index in wanted}
        return values

    def extend_pcr(self, index: int, bank: int, digest: bytes) -> None:
        """Extend a PCR of one bank (22.2)."""
        parameters = number(1, 4) + number(bank, 2) + digest
        self.command("PCR_Extend", 0x182, number(index, 4), parameters, [PASSWORD])

    def command(
        self,
        name: str,
        code: int,
        handles: bytes,
        parameters: bytes,
        sessions: Sequence[int] | None,
        *,
        handles_returned: int = 0,
    ) -> "ResponseReader":
        """Send one command; `sessions` authorise its handles in their order, None where it needs none.

        Raises:
            TpmResponseError: the TPM refused. AttesterError: its response cannot be read.
        """
        body = handles + _authorisation(sessions) + parameters
        tag = _NO_SESSIONS if sessions is None else _SESSIONS
        raw = self._exchange(number(tag, 2) + number(10 + len(body), 4) + number(code, 4) + body)
        try:
            reader = ResponseReader(raw, f"TPM's response to {name}")
            reader.take("tag", 2)
            if reader.number("size", 4) != len(raw):
                reader.refuse("has another size than it says")
            result = reader.number("response code", 4)
            if result:
                raise _refused(name, result)
            return reader.parameters(handles_returned, sessions is not None)
        except MalformedEvidenceError as error:
            self._odd(name, error)

    def _exchange(self, command: bytes) -> bytes:
        """Send a command until the TPM has time for it."""
        raw = self._transport.exchange(command)
        for attempt in range(_RETRIES):
            if int.from_bytes(raw[6:10], "big") not in _BUSY:
                break
            time.sleep(_PAUSE_S * (attempt + 1))
            raw = self._transport.exchange(command)
        return raw

    def _keep(self, reader: "ResponseReader") -> int:
        self._loaded.append(reader.handle)
        return reader.handle

    def _public(self, reader: "ResponseReader") -> Public:
        try:
            return tpm2_public.parse(reader.sized("public area", 2048))
        except MalformedEvidenceError as error:
            self._odd("a command that returns a public area", error)

    def _odd(self, name: str, error: MalformedEvidenceError) -> NoReturn:
        raise AttesterError(f"the TPM's response to {name} cannot be read: {error.problem}", _FIX) from None


class ResponseReader(Reader):
    """The parameters of a response, and the handle that stands before them."""

    handle = 0

    def parameters(self, handles: int, with_sessions: bool) -> "ResponseReader":
        """Take the handle, and cut the authorisation area off."""
        handle = self.number("handle", 4) if handles else 0
        rest = self.sized("parameters", 4096, width=4) if with_sessions else self.rest()
        inner = ResponseReader(rest, self._name)
        inner.handle = handle
        return inner

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take("rest", len(self._raw) - self._offset)


def _refused(name: str, code: int) -> TpmResponseError:
    error = TpmResponseError(f"the TPM refused {name} with response code {code:#05x}", _FIX)
    error.response_code = code
    return error


def _authorisation(sessions: Sequence[int] | None) -> bytes:
    """Return the authorisation area (Part 1, section 18): no nonce, the session goes on, no HMAC."""
    if sessions is None:
        return b""
    area = b"".join(number(session, 4) + sized(b"") + number(1, 1) + sized(b"") for session in sessions)
    return sized(area, width=4)


def _creation(template: bytes) -> bytes:
    """Return the parameters of Create and CreatePrimary: no password, no data, no creation PCRs."""
    return sized(sized(b"") + sized(b"")) + sized(template) + sized(b"") + number(0, 4)
