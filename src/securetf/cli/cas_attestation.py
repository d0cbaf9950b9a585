"""How `securetf cas attest` verifies a CAS: in simulation, and on hardware."""

import tomllib
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from securetf.cas.hardware_verifiers import TpmRoots, hardware_verifiers
from securetf.cas_client import CasTrust
from securetf.cas_client.attest_cas import attest_cas
from securetf.cas_client.tpm_of_cas import TpmIssuers
from securetf.claims import Platform
from securetf.cli import hardware_options
from securetf.endorsements import TrustAnchors
from securetf.endorsements.cache import Cache
from securetf.endorsements.library import Library
from securetf.errors import EndorsementError, ManifestSyntaxError, MeasurementError, UsageError
from securetf.manifest import Manifest, PlatformPolicy, appraisal_of
from securetf.verifier.insecure_simulation import verifier


def simulated(url: str, root: Path, measurements: tuple[str, ...]) -> CasTrust:
    """Attest a CAS in an INSECURE SIMULATION."""
    if not measurements:
        raise UsageError("`--measurement` is missing", "take it from `securetf measure`")
    for value in measurements:
        if len(value) != 96 or value.strip("0123456789abcdef"):
            raise MeasurementError(
                f"measurement {value[:100]!r} is not 96 lower-case hex digits",
                "take it from `securetf measure`",
            )
    try:
        anchors = TrustAnchors.insecure_simulation(root.read_bytes())
    except OSError as error:
        raise EndorsementError(
            f"{root} cannot be read: {error.strerror}", "name root.pem of the simulated platform"
        ) from None
    return attest_cas(
        url,
        verifiers_for=lambda endorsements: {Platform.INSECURE_SIMULATION: verifier(anchors, endorsements)},
        policy=PlatformPolicy(mr_td=measurements),
        now=datetime.now(UTC),
    )


def hardware(url: str, policy: Path, given: dict[str, Any]) -> CasTrust:
    """Attest a CAS on hardware. given: the options of `hardware_options.verifying_options`."""
    if given["endorsements"] is None:
        raise UsageError("`--endorsements` is missing", "name the cache's directory, which may be empty")
    accepted = _policy(policy)
    library = Library(Cache(given["endorsements"]), hardware_options.sources(given))
    tpm, roots = None, None
    if given["tpm_roots"] is not None:
        roots = TpmRoots.of(_roots(given["tpm_roots"]))
        tpm = TpmIssuers(anchors=roots.anchors, completed=partial(roots.completed, library))
    verifiers = hardware_verifiers(
        library, minimum_tcb_evaluation=given["minimum_tcb_evaluation"], tpm_roots=roots
    )
    return attest_cas(
        url,
        verifiers_for=lambda _: verifiers,
        policy={str(name): one for name, one in accepted.appraisal.items()},
        now=datetime.now(UTC),
        require=accepted.require,
        tpm=tpm,
    )


def _roots(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EndorsementError(f"{path} cannot be read: {error.strerror}", "name a PEM file") from None


def _policy(path: Path) -> Manifest:
    try:
        return appraisal_of(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ManifestSyntaxError(f"{path} cannot be read: {error.strerror}", "name a TOML file") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ManifestSyntaxError(f"{path} is not TOML: {error}", "correct the file") from None
