"""One tree of errors. Each says what was found, what was expected and what to do next.

A class has an exit code (docs/reference/exit-codes.md) and a stable code STF-nnnn (docs/reference/errors.md);
its docstring is what `securetf explain STF-nnnn` prints: the cause in general and the way out.
"""

from typing import ClassVar


class SecuretfError(Exception):
    """Something inside securetf failed in a way that no more exact error describes.

    `problem`: what was found and what was expected. `fix`: what the operator does next.
    """

    code: ClassVar[str] = "STF-1000"
    exit_code: ClassVar[int] = 70

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem, fix)
        self.problem, self.fix = problem, fix

    def __str__(self) -> str:
        return f"{self.problem}; {self.fix}"


# --- usage and environment: exit 2, 30 ---------------------------------------------------------------------


class UsageError(SecuretfError):
    """The command's arguments do not fit together, or name something that does not exist."""

    code = "STF-1001"
    exit_code = 2


class EnvironmentUnfitError(SecuretfError):
    """This machine lacks something that the command needs: FUSE, privileges, a program or a port."""

    code = "STF-1002"
    exit_code = 30


class FuseUnavailableError(EnvironmentUnfitError):
    """`/dev/fuse` cannot be opened or mounted, so volumes cannot be shown to the program."""

    code = "STF-1003"


class PortInUseError(EnvironmentUnfitError):
    """Another process already listens on the address that was asked for."""

    code = "STF-1004"


class NoSpaceError(EnvironmentUnfitError):
    """The disk is full. What was committed before stays valid; what was being written is not there."""

    code = "STF-1005"


# --- Manifest: exit 12 -------------------------------------------------------------------------------------


class ManifestError(SecuretfError):
    """The Manifest cannot be used as it is; the message names the key."""

    code = "STF-1100"
    exit_code = 12


class ManifestSyntaxError(ManifestError):
    """The file is not readable, not UTF-8, not TOML, or larger than allowed."""

    code = "STF-1101"


class ManifestValueError(ManifestError):
    """A key is unknown, missing, of the wrong type or out of range, or names something undefined."""

    code = "STF-1102"


class ManifestPredecessorError(ManifestError):
    """The new version does not name the hash of the version that is current in the CAS."""

    code = "STF-1103"


class ManifestHashError(ManifestError):
    """The Manifest that was presented is not the one the CAS has as current for this session."""

    code = "STF-1104"


# --- Evidence: exit 10 -------------------------------------------------------------------------------------


class EvidenceError(SecuretfError):
    """The other side could not prove itself."""

    code = "STF-1200"
    exit_code = 10
    step = 0  # number of the verifier's step that refused (docs/platforms.md), 0 before the first


class MalformedEvidenceError(EvidenceError):
    """The Evidence is not of the exact form that its specification gives."""

    code = "STF-1201"


class UnsupportedPlatformError(EvidenceError):
    """No verifier is configured for the platform that the Evidence names."""

    code = "STF-1202"


class SignatureError(EvidenceError):
    """A signature or certificate in the Evidence's chain does not hold, or its root is not a trust anchor."""

    code = "STF-1203"


class EndorsementError(EvidenceError):
    """The collateral (TCB info, identities, CRLs) is missing, out of date or for another platform."""

    code = "STF-1204"


class TcbError(EvidenceError):
    """The platform's TCB is revoked or has no matching level."""

    code = "STF-1205"


class ConfigurationError(EvidenceError):
    """The TEE runs in a configuration that gives no protection: debug, migratable, or the like."""

    code = "STF-1206"


class BindingError(EvidenceError):
    """The report data is not the digest of this nonce, keys and CAS: replayed, relayed or altered."""

    code = "STF-1207"


class NonceError(EvidenceError):
    """The challenge is unknown, was used before, has expired or was made for another session."""

    code = "STF-1208"


class SimulationRefusedError(EvidenceError):
    """Simulated Evidence was presented where only hardware counts. It proves nothing about any machine."""

    code = "STF-1209"


class AttesterError(EvidenceError):
    """This machine cannot make Evidence: no TEE device was found, or the device answered with an error."""

    code = "STF-1210"


class TpmResponseError(AttesterError):
    """The TPM refused a command. Its response code is in TPM 2.0 Library, Part 2, section 6.6."""

    code = "STF-1211"
    response_code = 0


# --- appraisal: exit 11 ------------------------------------------------------------------------------------


class AppraisalError(SecuretfError):
    """The Evidence is genuine, and the policy does not accept what it shows; all mismatches are named."""

    code = "STF-1300"
    exit_code = 11


class MeasurementError(AppraisalError):
    """A measured register differs from each Reference Value: other software, code or configuration."""

    code = "STF-1301"


class TcbNotAcceptedError(AppraisalError):
    """The TCB status is not among those that the policy accepts."""

    code = "STF-1302"


class PlatformNotAllowedError(AppraisalError):
    """The policy names no Reference Values for this platform, or not this machine's identity."""

    code = "STF-1303"


class TokenError(AppraisalError):
    """An attestation token is expired, of the wrong audience, not ours, or held by someone else."""

    code = "STF-1304"


# --- CAS: exit 13 refused, 14 not reached or not the one, 15 its state --------------------------------------


class CasRefusedError(SecuretfError):
    """The CAS refused the request."""

    code = "STF-1400"
    exit_code = 13


class NotAuthorisedError(CasRefusedError):
    """No key that the session's `[access]` names signed the request, or the signature does not hold."""

    code = "STF-1401"


class NotFoundError(CasRefusedError):
    """The CAS has no such session, version, volume or workload, or will not say so to this key."""

    code = "STF-1402"


class ConflictError(CasRefusedError):
    """The state has moved on since the caller read it, or the name is taken."""

    code = "STF-1403"


class FencedError(CasRefusedError):
    """Another writer holds the volume's lease, or another process is this instance now: stop this one."""

    code = "STF-1404"


class LimitError(CasRefusedError):
    """A size, rate or count limit was passed."""

    code = "STF-1405"


class CasUnreachableError(SecuretfError):
    """The CAS did not answer: connection refused, timed out or lost."""

    code = "STF-1410"
    exit_code = 14


class CasIdentityError(SecuretfError):
    """What answered is not the CAS that was pinned: another key. Nothing was sent to it."""

    code = "STF-1411"
    exit_code = 14


class CasProtocolError(SecuretfError):
    """The CAS's answer is not of the expected form."""

    code = "STF-1412"
    exit_code = 14


class CasStateError(SecuretfError):
    """The CAS's own database is damaged, or rows were changed, removed or mixed."""

    code = "STF-1420"
    exit_code = 15


class CasRollbackError(CasStateError):
    """The CAS's database is older than its monotonic anchor: a backup or snapshot was put back."""

    code = "STF-1421"


class AuditError(CasStateError):
    """The audit log's chain or signed head does not hold."""

    code = "STF-1422"


# --- keys: exit 16 -----------------------------------------------------------------------------------------


class KeyFileError(SecuretfError):
    """A key file is missing, not of the right form, or readable by others."""

    code = "STF-1600"
    exit_code = 16


class UnsealError(SecuretfError):
    """A sealed message does not open with this key and transcript."""

    code = "STF-1601"
    exit_code = 16


# --- volumes: exit 20 integrity, 21 input and output --------------------------------------------------------


class VolumeError(SecuretfError):
    """A volume operation failed."""

    code = "STF-2000"
    exit_code = 21


class VolumeFormatError(VolumeError):
    """The directory is not a volume, or of a format version that this release does not read."""

    code = "STF-2001"


class VolumeBusyError(VolumeError):
    """The volume is already open for writing in another process."""

    code = "STF-2002"


class VolumeIoError(VolumeError):
    """The storage under the volume failed to read or write."""

    code = "STF-2003"


class VolumeIntegrityError(VolumeError):
    """Stored bytes do not authenticate: damaged or tampered with."""

    code = "STF-2010"
    exit_code = 20


class VolumeRollbackError(VolumeIntegrityError):
    """The storage does not hold the state that is anchored: an older copy was put back, or part is
    missing.
    """

    code = "STF-2011"


class VolumeKeyError(VolumeIntegrityError):
    """The key does not open this volume: another volume's key or another volume's files."""

    code = "STF-2012"


# --- launcher: exit 30 -------------------------------------------------------------------------------------


class LaunchError(SecuretfError):
    """The program could not be started as the Manifest says."""

    code = "STF-3000"
    exit_code = 30


class CommitFailedError(SecuretfError):
    """The program ended, but its last writes could not be anchored at the CAS; they are not acknowledged."""

    code = "STF-3001"
    exit_code = 20


class NetworkShieldError(SecuretfError):
    """The network shield could not be raised, or its self-test found a way around it: nothing was started."""

    code = "STF-3100"
    exit_code = 30


class MembersMissingError(SecuretfError):
    """Not all members that the program needs attested in time, so it was not started."""

    code = "STF-3101"
    exit_code = 30


class DemoError(SecuretfError):
    """A step of the demonstration did not give what it must give."""

    code = "STF-4000"
    exit_code = 70


def by_code() -> dict[str, type[SecuretfError]]:
    """Return code to class, of all modules that were imported."""
    found, todo = dict[str, type[SecuretfError]](), [SecuretfError]
    while todo:
        kind = todo.pop()
        found[kind.code] = kind
        todo += kind.__subclasses__()
    return found
