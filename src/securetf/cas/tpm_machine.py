"""The machine of a CAS that has a TPM, alone or beside its TEE: Evidence, sealed root key and counter.

Three files stand in the CAS's data directory, none of them secret: the root key as the TPM sealed it, the
attestation key as the TPM wrapped it, and the anchor, which only the CAS can write.
"""

import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from securetf.attester import Attester, Devices, hardware
from securetf.attester.composite import CompositeAttester
from securetf.attester.tpm2 import CertifiedTpm2Attester, Tpm2Attester
from securetf.attester.tpm_client import TpmClient
from securetf.attester.tpm_counter import COUNTER_INDEX, TpmCounter
from securetf.attester.tpm_sealing import seal, unseal
from securetf.attester.tpm_transport import SharedTransport
from securetf.cas.store.anchor import write_new
from securetf.cas.store.sealing import GENESIS, KEY_SIZE
from securetf.cas.store.tpm_anchor import TpmAnchor
from securetf.cas_client.tpm_enrolment import keys_of
from securetf.claims import Platform
from securetf.errors import AttesterError, CasRollbackError, CasStateError, EnvironmentUnfitError
from securetf.wire.tpm import TpmKeys

ROOT_KEY_FILE, KEY_FILE, ANCHOR_FILE = "root-key.tpm", "attestation-key.tpm", "anchor.tpm"
SEALING_PCRS = (0, 2, 4, 7, 8, 9, 11)  # firmware, boot loader, Secure Boot, kernel and its command line
_STORE_ID_SIZE = 16  # bytes
_FILE_SIZE_LIMIT = 8192  # bytes
_TPMS = frozenset({Platform.TPM2.value, hardware.CERTIFIED_TPM})


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareSettings:
    """names: of `hardware.NAMES`, the TEE first. counter_index: NV index of the anchor's counter.

    sealing_pcrs: the root key is given back only while these are as at the first start. issuers: DER
    certificates above that of the TPM's endorsement key, for clients.
    """

    names: tuple[str, ...]
    devices: Devices
    counter_index: int = COUNTER_INDEX
    sealing_pcrs: tuple[int, ...] = SEALING_PCRS
    issuers: tuple[bytes, ...] = ()


class TpmMachine:
    """One connection to the TPM for as long as the CAS runs."""

    def __init__(self, settings: HardwareSettings, data: Path) -> None:
        """data: the CAS's directory.

        Raises:
            EnvironmentUnfitError: no TPM among the attesters. AttesterError: a device cannot be used.
        """
        tpms = [name for name in settings.names if name in _TPMS]
        if len(tpms) != 1:
            raise EnvironmentUnfitError(
                f"a CAS on {' and '.join(settings.names)} has nothing that keeps its root key and counts: "
                "SGX sealing, SNP derived keys and recovery shares are not in this release",
                "add the TPM of the machine, `--attester tpm2`, or use one that has a TPM",
            )
        self._settings, self._data = settings, data
        self._client = TpmClient(SharedTransport(settings.devices.tpm.open()))
        try:
            self.own_tpm, tpm = self._tpm(certified=tpms[0] == hardware.CERTIFIED_TPM)
            self.attester = self._attester(tpm, [name for name in settings.names if name not in _TPMS])
        except BaseException:
            self.close()
            raise

    def endorsements(self) -> str:
        """Return nothing: clients of hardware have endorsements of their own."""
        return ""

    def root_key(self, *, create: bool) -> bytes:
        """Return the root key: what the TPM unseals; sealed first for a new CAS.

        Raises:
            CasStateError: the TPM does not give it, or the file is not there.
        """
        path = self._data / ROOT_KEY_FILE
        try:
            if create and not path.exists():
                write_new(path, seal(self._client, os.urandom(KEY_SIZE), self._settings.sealing_pcrs))
            return unseal(self._client, hardware.read_file(path, _FILE_SIZE_LIMIT))
        except AttesterError as error:
            raise CasStateError(f"the root key is not to be had: {error.problem}", error.fix) from None
        except OSError as error:
            raise CasStateError(f"{path} cannot be written: {error.strerror}", "repair the disk") from None

    def open_anchor(self, store_id: bytes, root_key: bytes) -> TpmAnchor:
        """Open the anchor of this store."""
        return TpmAnchor(self._data / ANCHOR_FILE, store_id, _anchor_key(root_key), self._counter())

    def new_anchor(self, root_key: bytes) -> TpmAnchor:
        """Make the anchor of a new store; take up one that never counted: its first start was killed."""
        path, key, digest = self._data / ANCHOR_FILE, _anchor_key(root_key), GENESIS.digest()
        if not path.exists():
            return TpmAnchor.create(path, os.urandom(_STORE_ID_SIZE), digest, key, self._counter())
        anchor = TpmAnchor.open_unused(path, digest, key, self._counter())
        if anchor is None:
            raise CasRollbackError(
                f"{self._data} holds no database, and its anchor {path.name} is of one that answered",
                "restore the database that belongs to it, or name an empty data directory for a new CAS",
            )
        return anchor

    def close(self) -> None:
        """Let go of the TPM."""
        self._client.close()

    def _counter(self) -> TpmCounter:
        return TpmCounter(self._client, self._settings.counter_index)

    def _tpm(self, *, certified: bool) -> tuple["_OwnTpm | None", Attester]:
        log = hardware.read_event_log(self._settings.devices)
        if certified:
            return None, CertifiedTpm2Attester(self._client, event_log=log)
        path = self._data / KEY_FILE
        stored = hardware.read_file(path, _FILE_SIZE_LIMIT) if path.exists() else None
        attester = Tpm2Attester(self._client, stored=stored, event_log=log)
        if stored is None:
            try:
                write_new(path, attester.stored)
            except OSError as error:
                raise CasStateError(
                    f"{path} cannot be written: {error.strerror}", "repair the disk"
                ) from None
        return _OwnTpm(attester, self._settings.issuers), attester

    def _attester(self, tpm: Attester, machines: Sequence[str]) -> Attester:
        if not machines:
            return tpm
        return CompositeAttester(hardware.make(machines, self._settings.devices, {}), [tpm])


@dataclass(frozen=True, slots=True)
class _OwnTpm:
    attester: Tpm2Attester
    issuers: Sequence[bytes]

    def keys(self) -> TpmKeys:
        return keys_of(self.attester, self.issuers)

    def answer(self, credential: bytes, encrypted_seed: bytes) -> bytes:
        return self.attester.answer(credential, encrypted_seed)


def _anchor_key(root_key: bytes) -> bytes:
    """Derive the key that authenticates the anchor's file (HKDF-Expand of one block, RFC 5869)."""
    return hmac.digest(root_key, b"securetf cas tpm anchor v1\x01", "sha256")
