"""Monotonic counters in a TPM's NV memory (TPM 2.0 Library, Part 1, section 37.2.4; Part 3, section 31).

A counter never goes back: not by a reset, and not by removing and defining its index again, since a new
counter starts above the highest value that any counter of the TPM ever had. A *software* TPM's state is a
file that its host can put back.
"""

from securetf.attester.tpm_client import OWNER, PASSWORD, RC_HANDLE_1, TpmClient
from securetf.errors import AttesterError, TpmResponseError
from securetf.evidence.tpm2_quote import SHA256
from securetf.evidence.tpm2_wire import Reader, number, sized

COUNTER_INDEX = (
    0x01C0F5EC  # default NV index; owner's range (TCG Registry of Reserved TPM 2.0 Handles, section 2.2)
)
COUNTER_SIZE = 8  # bytes
READ_SIZE = 512  # bytes of one NV_Read; TPMs take at least that

# TPMA_NV (Part 2, section 13.4): counter, written and read by owner or with the index's empty password
_ATTRIBUTES = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 17 | 1 << 18 | 1 << 25
_WRITTEN = 1 << 29
_FIX = "choose another NV index for the counter"


class TpmCounter:
    """One monotonic counter."""

    def __init__(self, client: TpmClient, index: int = COUNTER_INDEX) -> None:
        """Use the counter at an NV index; `define` makes it."""
        self._client, self._index = client, index

    def define(self) -> None:
        """Make the counter if it does not exist, and count once: before that it has no value.

        Raises:
            AttesterError: the index is in use for something else.
        """
        attributes = read_attributes(self._client, self._index)
        if attributes is None:
            public = b"".join(
                (
                    number(self._index, 4),
                    number(SHA256, 2),
                    number(_ATTRIBUTES, 4),
                    sized(b""),
                    number(COUNTER_SIZE, 2),
                )
            )
            parameters = sized(b"") + sized(public)
            self._client.command("NV_DefineSpace", 0x12A, number(OWNER, 4), parameters, [PASSWORD])
            attributes = _ATTRIBUTES
        if attributes & ~_WRITTEN != _ATTRIBUTES:
            raise AttesterError(f"NV index {self._index:#010x} is in use, and is not our counter", _FIX)
        if not attributes & _WRITTEN:
            self.increment()

    def increment(self) -> int:
        """Count one up and return the new value (31.8)."""
        self._client.command("NV_Increment", 0x134, number(self._index, 4) * 2, b"", [PASSWORD])
        return self.read()

    def read(self) -> int:
        """Return the value (31.13).

        Raises:
            AttesterError: the index does not exist, was never counted, or is no counter.
        """
        return int.from_bytes(read_nv(self._client, self._index, self._index, COUNTER_SIZE), "big")

    def remove(self) -> None:
        """Remove the counter (31.4). One that is defined later starts above its last value."""
        handles = number(OWNER, 4) + number(self._index, 4)
        self._client.command("NV_UndefineSpace", 0x122, handles, b"", [PASSWORD])


def read_attributes(client: TpmClient, index: int) -> int | None:
    """Return an NV index's TPMA_NV (31.6), None if there is no such index."""
    public = _read_nv_public(client, index)
    return None if public is None else int.from_bytes(public[6:10], "big")


def read_all(client: TpmClient, index: int) -> bytes | None:
    """Return what an NV index holds, read with the owner's empty password; None if there is no such index."""
    public = _read_nv_public(client, index)
    if public is None:
        return None
    return read_nv(client, OWNER, index, int.from_bytes(public[-2:], "big"))


def read_nv(client: TpmClient, authorised_by: int, index: int, size: int) -> bytes:
    """Return the first `size` bytes of an NV index."""
    found = b""
    while len(found) < size:
        wanted = min(READ_SIZE, size - len(found))
        handles = number(authorised_by, 4) + number(index, 4)
        parameters = number(wanted, 2) + number(len(found), 2)
        found += client.command("NV_Read", 0x14E, handles, parameters, [PASSWORD]).sized("data", wanted)
    return found


def _read_nv_public(client: TpmClient, index: int) -> bytes | None:
    try:
        reader: Reader = client.command("NV_ReadPublic", 0x169, number(index, 4), b"", None)
    except TpmResponseError as error:
        if error.response_code == RC_HANDLE_1:
            return None
        raise
    return reader.sized("public area", 256)
