"""What a workload or an owner receives once it has been appraised or authorised. Pure values and sealing."""

from securetf.provisioning.sealing import (
    HPKE_PUBLIC_KEY_SIZE,
    HpkeKeyPair,
    HpkePublicKey,
    grant_transcript,
    open_grant,
    open_sealed,
    open_secret,
    public_key_of,
    seal,
    seal_grant,
    seal_secret,
    secret_transcript,
)
from securetf.provisioning.values import Freshness, NetworkGrant, Provision, VolumeGrant

__all__ = [
    "HPKE_PUBLIC_KEY_SIZE",
    "Freshness",
    "HpkeKeyPair",
    "HpkePublicKey",
    "NetworkGrant",
    "Provision",
    "VolumeGrant",
    "grant_transcript",
    "open_grant",
    "open_sealed",
    "open_secret",
    "public_key_of",
    "seal",
    "seal_grant",
    "seal_secret",
    "secret_transcript",
]
