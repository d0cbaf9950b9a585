"""`securetf tpm enrol`: this machine's TPM becomes known to a CAS."""

import os
from pathlib import Path
from typing import Any

import click

from securetf.cli import attester_options
from securetf.errors import KeyFileError

_PATH = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Enrol this machine's TPM at a CAS."""


@command.command()
@click.option("--cas", type=_PATH, required=True, help="Trust file of `securetf cas attest`.")
@click.option("--tpm", metavar="ADDRESS", help=f"TPM: {attester_options.TPM_ADDRESS}")
@click.option(
    "--tpm-key",
    type=_PATH,
    required=True,
    metavar="FILE",
    help="The attestation key, made if the file does not exist; only this TPM can use it.",
)
@click.option(
    "--issuers", type=_PATH, metavar="FILE", help="PEM: certificates above the TPM's, if the CAS lacks them."
)
def enrol(cas: Path, tpm: str | None, tpm_key: Path, issuers: Path | None) -> None:
    """Let the CAS prove to itself that an attestation key lives in this machine's certified TPM.

    Repeat it for another CAS, and when the CAS was set up anew.
    """
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    from securetf.attester.hardware import KEY_FILE_SIZE_LIMIT, read_file  # noqa: PLC0415
    from securetf.attester.tpm2 import Tpm2Attester  # noqa: PLC0415
    from securetf.attester.tpm_client import TpmClient  # noqa: PLC0415
    from securetf.cas_client import CasClient, load_trust  # noqa: PLC0415
    from securetf.cas_client.tpm_enrolment import enrol as enrol_at  # noqa: PLC0415

    chain = []
    if issuers is not None:
        try:
            chain = x509.load_pem_x509_certificates(read_file(issuers, 1 << 16))
        except ValueError as error:
            raise KeyFileError(f"{issuers} is not PEM certificates: {error}", "name the right file") from None
    stored = read_file(tpm_key, KEY_FILE_SIZE_LIMIT) if tpm_key.exists() else None
    given: dict[str, Any] = {"tpm": tpm}
    with TpmClient(attester_options.devices(given).tpm.open()) as client, CasClient(load_trust(cas)) as at:
        attester = Tpm2Attester(client, stored=stored)
        if stored is None:
            _write_new(tpm_key, attester.stored)
        done = enrol_at(at, attester, [one.public_bytes(Encoding.DER) for one in chain])
    click.echo(f"enrolled: attestation key {done.ak_name.hex()}")
    click.echo(f"platform id of this machine, for `platform_ids` in a Manifest: {done.ek_sha256.hex()}")


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that does not exist, mode 0600."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror}", "name another file") from None
