"""Keeps fresh what a service proves: the relay's statement, and the program's identity directory.

docs/formats/service-statement-v1.md. The launcher's thread calls first, then the membership's alone.
"""

import time
from collections.abc import Callable
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from securetf import manifest as manifests
from securetf.errors import LaunchError
from securetf.keys.jws import sign_compact
from securetf.launcher.identity import DIRECTORY, VARIABLE, IdentityDirectory
from securetf.launcher.plan import LaunchPlan
from securetf.launcher.stages import Network, Provisioner
from securetf.provisioning import NetworkGrant, Provision, VolumeGrant
from securetf.wire import VolumeHead, encode
from securetf.wire.statement import (
    DELEGATION_TYPE,
    Attestation,
    CasProof,
    Delegation,
    MountedVolume,
    VolumeProof,
)

RENEW_S = 120.0  # between attestations; an EAR is good for 300 s
RETRY_S = 5.0  # after one that failed
CAS_S = 3600.0  # after which the CAS proves itself again
DELEGATION_S = 3600


class Proof:
    """What one program proves. `begin` first, `tick` often, `install` with each new certificate, `close`."""

    def __init__(
        self,
        planned: LaunchPlan,
        provisioner: Provisioner,
        network: Network,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        directory: str = DIRECTORY,
    ) -> None:
        self._plan, self._provisioner, self._network = planned, provisioner, network
        self._clock, self._now = clock, now
        self._path = directory
        self._directory: IdentityDirectory | None = None
        self._receipt_spki: bytes | None = None
        self._volumes: dict[str, VolumeProof] = {}
        self._grant: NetworkGrant | None = None
        self._cas: CasProof | None = None
        self._ear = ""
        self._renew_at = self._cas_at = clock()

    def begin(self, provision: Provision, grant: NetworkGrant) -> None:
        """Make the first statement, of the attestation that has just been done, and the identity directory.

        Raises:
            LaunchError: the directory cannot be made. SecuretfError: the CAS does not prove itself.
        """
        self._volumes = {one.name: _volume(one) for one in provision.volumes}
        self._grant = grant
        if self._plan.receipts:
            self._directory = IdentityDirectory(self._plan.user_id, self._path)
            key = generate_private_key(SECP256R1())
            public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            self._directory.write("receipt-key.pem", pem)
            self._receipt_spki = public
            self._write_volumes()
        self._renew(first=True)

    def environment(self) -> dict[bytes, bytes]:
        """Return the variable by which the program finds its identity directory."""
        return {} if self._directory is None else {VARIABLE.encode(): self._path.encode()}

    def tick(self) -> None:
        """Attest anew when it is time. Raises SecuretfError; the next try is a few seconds later."""
        now = self._clock()
        if now >= self._renew_at:
            self._renew_at = now + RETRY_S
            self._renew(first=False)

    def install(self, grant: NetworkGrant) -> None:
        """Go on with a new certificate. Raises LaunchError."""
        self._grant = grant
        self._publish()

    def moving(self, name: str) -> None:
        """Say nothing of the root of this volume until `moved`. Raises LaunchError."""
        self._volumes[name] = msgspec.structs.replace(self._volumes[name], root="")
        self._write_volumes()

    def moved(self, name: str, head: VolumeHead) -> None:
        """Say that the mount of this volume shows this root from now on. Raises LaunchError."""
        self._volumes[name] = msgspec.structs.replace(
            self._volumes[name], epoch=head.epoch, seq=head.seq, root=head.root.hex()
        )
        self._write_volumes()
        self._publish()

    def close(self) -> None:
        """Forget the directory."""
        if self._directory is not None:
            self._directory.close()

    def _renew(self, *, first: bool) -> None:
        begun = self._clock()
        if begun >= self._cas_at:
            self._cas = self._provisioner.prove_cas()
            self._cas_at = begun + CAS_S
        self._ear = self._provisioner.token(renew=not first)
        self._publish()
        self._renew_at = begun + RENEW_S

    def _publish(self) -> None:
        """Give the relay, then the program, what holds now."""
        if self._grant is None or self._cas is None:
            raise LaunchError("nothing was attested", "report it: a defect in securetf")
        key = self._provisioner.attested_key()
        whole = Attestation(
            ear=self._ear,
            certificate=list(self._grant.chain),
            trust_root=self._grant.trust_root,
            cas=self._cas,
        )
        public = msgspec.to_builtins(whole)
        del public["certificate"]  # the relay names that of the connection
        claims = {
            **self._who(),
            "volumes": self._volumes,
            "receipt_key": self._receipt_spki,
        }
        pkcs8 = key.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        self._network.set_statement(
            msgspec.json.encode(public).decode(), msgspec.json.encode(claims).decode(), pkcs8
        )
        if self._directory is None or self._receipt_spki is None:
            return
        self._directory.write("attestation.json", encode(whole))
        issued = int(self._now())
        delegation = Delegation(
            receipt_key=self._receipt_spki, **self._who(), iat=issued, exp=issued + DELEGATION_S
        )
        token = sign_compact(key, DELEGATION_TYPE, encode(delegation))
        self._directory.write("receipt-delegation.jws", token.encode())

    def _who(self) -> dict[str, Any]:
        return {
            "session": self._plan.manifest.session.name,
            "workload": self._plan.workload,
            "instance": self._plan.instance,
            "manifest_hash": f"sha256:{self._plan.manifest_hash.hex()}",
        }

    def _write_volumes(self) -> None:
        if self._directory is None:
            return
        manifest, paths = self._plan.manifest, {one.name: one.path for one in self._plan.mounts}
        found = {}
        for name, volume in self._volumes.items():
            rule = manifests.volume_rule(manifest, name)
            if rule is None:
                raise LaunchError(f"the Manifest has no volume {name}", "report it: a defect in securetf")
            found[name] = MountedVolume(
                mount=paths[name],
                volume_id=volume.volume_id,
                epoch=volume.epoch,
                seq=volume.seq,
                root=volume.root,
                protection=manifest.volumes[rule].protection,
            )
        self._directory.write("volumes.json", msgspec.json.encode(found))


def _volume(grant: VolumeGrant) -> VolumeProof:
    return VolumeProof(
        volume_id=grant.volume_id.hex(),
        epoch=grant.epoch,
        seq=grant.seq,
        root=grant.root.hex(),
        writable=grant.writable,
    )
