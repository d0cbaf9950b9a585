"""The machine of a CAS that has a TPM, alone or beside its TEE: Evidence, sealed root key and counter.

Three files stand in the CAS's data directory, none of them secret: the root key as TEE or TPM sealed it, the
attestation key as the TPM wrapped it, and the anchor, which only the CAS can write.
"""

import hmac
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from securetf.attester import Attester, Devices, hardware, sealing, tpm_sealing
from securetf.attester.composite import CompositeAttester
from securetf.attester.tpm2 import CertifiedTpm2Attester, Tpm2Attester
from securetf.attester.tpm_client import TpmClient
from securetf.attester.tpm_counter import COUNTER_INDEX, TpmCounter
from securetf.attester.tpm_transport import SharedTransport, Transport
from securetf.cas.store.anchor import write_new
from securetf.cas.store.sealing import GENESIS, KEY_SIZE
from securetf.cas.store.tpm_anchor import TpmAnchor
from securetf.cas_client.tpm_enrolment import keys_of
from securetf.claims import Platform
from securetf.errors import AttesterError, CasRollbackError, CasStateError, EnvironmentUnfitError
from securetf.wire.tpm import TpmKeys

KEY_FILE, ANCHOR_FILE = "attestation-key.tpm", "anchor.tpm"
_TPM = "tpm"  # what seals the root key, and the end of its file's name; else the name of a TEE
_ROOT_KEY_FILES = {name: f"root-key.{name}" for name in (_TPM, *(one.value for one in hardware.SEALING))}
SEALING_PCRS = (0, 2, 4, 7, 8, 9, 11)  # firmware, boot loader, Secure Boot, kernel and its command line
_STORE_ID_SIZE = 16  # bytes
_FILE_SIZE_LIMIT = 8192  # bytes
_TPMS = frozenset({Platform.TPM2.value, hardware.CERTIFIED_TPM})


@dataclass(frozen=True, slots=True, kw_only=True)
class TeeSealing:
    """The TEE's own key seals the root key. platform, choice: as for `hardware.sealing_key`."""

    platform: Platform
    choice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareSettings:
    """names: of `hardware.NAMES`, the TEE first. counter_index: NV index of the anchor's counter.

    tee_sealing: what seals the root key; None: the TPM, which gives it back only while `sealing_pcrs` are as
    at the first start. issuers: DER certificates above that of the TPM's endorsement key, for clients.
    """

    names: tuple[str, ...]
    devices: Devices
    counter_index: int = COUNTER_INDEX
    tee_sealing: TeeSealing | None = None
    sealing_pcrs: tuple[int, ...] = SEALING_PCRS
    issuers: tuple[bytes, ...] = ()


class TpmMachine:
    """One connection to the TPM for as long as the CAS runs."""

    def __init__(self, settings: HardwareSettings, data: Path) -> None:
        """data: the CAS's directory.

        Raises:
            EnvironmentUnfitError: nothing keeps the root key, or no TPM counts. AttesterError: a device
            cannot be used.
        """
        tpms = [name for name in settings.names if name in _TPMS]
        if len(tpms) > 1 or not (tpms or settings.tee_sealing):
            raise EnvironmentUnfitError(
                f"a CAS on {' and '.join(settings.names)} has nothing that keeps its root key: "
                "that is sealed by SGX, by SEV-SNP, or by a TPM which attests, too",
                "add the TPM of the machine, `--attester tpm2`, or use one that has a TPM",
            )
        self._settings, self._data = settings, data
        self._client = TpmClient(SharedTransport(_open(settings)))
        try:
            self.own_tpm, attesters = self._attesters(tpms)
            self.attester = attesters[0]
            if len(attesters) > 1:
                self.attester = CompositeAttester(attesters[0], attesters[1:])
            self._seal, self._unseal = self._sealing()
        except BaseException:
            self.close()
            raise

    def endorsements(self) -> str:
        """Return nothing: clients of hardware have endorsements of their own."""
        return ""

    def root_key(self, *, create: bool) -> bytes:
        """Return the root key: what the TEE or the TPM opens; sealed first for a new CAS.

        Raises:
            CasStateError: it is not to be had, its file is not there, or it was sealed by another device.
        """
        path = self._data / _ROOT_KEY_FILES[self._sealed_by]
        self._check_device(path)
        try:
            if create and not path.exists():
                write_new(path, self._seal(os.urandom(KEY_SIZE)))
            return self._unseal(hardware.read_file(path, _FILE_SIZE_LIMIT))
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

    def _attesters(self, tpms: Sequence[str]) -> tuple["_OwnTpm | None", list[Attester]]:
        """Return the attesters, the TEE's first. The TPM is among them only if it is to attest, too."""
        settings = self._settings
        machines = [name for name in settings.names if name not in _TPMS]
        attesters = [hardware.make(machines, settings.devices, {})] if machines else []
        if not tpms:
            return None, attesters
        own, tpm = self._tpm(certified=tpms[0] == hardware.CERTIFIED_TPM)
        return own, [*attesters, tpm]

    @property
    def _sealed_by(self) -> str:
        tee = self._settings.tee_sealing
        return _TPM if tee is None else tee.platform.value

    def _sealing(self) -> tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]:
        settings, tee = self._settings, self._settings.tee_sealing
        if tee is None:
            return (
                lambda secret: tpm_sealing.seal(self._client, secret, settings.sealing_pcrs),
                lambda blob: tpm_sealing.unseal(self._client, blob),
            )
        key = hardware.sealing_key(tee.platform, settings.devices, tee.choice)
        return partial(sealing.seal, key), partial(sealing.unseal, key)

    def _check_device(self, path: Path) -> None:
        """Check that the root key was not sealed by another device: it would be made anew here."""
        for name, file in _ROOT_KEY_FILES.items():
            if file != path.name and (self._data / file).exists():
                raise CasStateError(
                    f"the root key of this CAS is in {file}, and this start asks for {path.name}",
                    f"start it with `--root-key {name}`, or name an empty data directory for a new CAS",
                )


@dataclass(frozen=True, slots=True)
class _OwnTpm:
    attester: Tpm2Attester
    issuers: Sequence[bytes]

    def keys(self) -> TpmKeys:
        return keys_of(self.attester, self.issuers)

    def answer(self, credential: bytes, encrypted_seed: bytes) -> bytes:
        return self.attester.answer(credential, encrypted_seed)


def _open(settings: HardwareSettings) -> Transport:
    try:
        return settings.devices.tpm.open()
    except AttesterError as error:
        if settings.tee_sealing is None:
            raise
        raise EnvironmentUnfitError(
            f"nothing counts the states of this CAS: {error.problem}",
            "name a TPM with `--tpm`: the TEE keeps the root key and has no counter",
        ) from None


def _anchor_key(root_key: bytes) -> bytes:
    """Derive the key that authenticates the anchor's file (HKDF-Expand of one block, RFC 5869)."""
    return hmac.digest(root_key, b"securetf cas tpm anchor v1\x01", "sha256")
