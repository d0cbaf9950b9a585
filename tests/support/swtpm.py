"""A software TPM (Debian package swtpm) with EK certificates by an authority of its own."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.attester.tpm_client import TpmClient
from securetf.attester.tpm_transport import SocketTransport
from securetf.endorsements import TrustAnchors
from securetf.errors import AttesterError


@dataclass(frozen=True)
class SoftwareTpm:
    """The state of one TPM. `client` runs it."""

    directory: Path

    @property
    def socket(self) -> Path:
        return self.directory / "tpm.sock"

    @property
    def authorities(self) -> tuple[bytes, ...]:
        """Certificates above the EK's: issuer, then root, DER."""
        files = ("issuercert.pem", "swtpm-localca-rootca-cert.pem")
        found = [x509.load_pem_x509_certificate((self.directory / name).read_bytes()) for name in files]
        return tuple(certificate.public_bytes(Encoding.DER) for certificate in found)

    @property
    def anchors(self) -> TrustAnchors:
        return TrustAnchors.chosen((self.directory / "swtpm-localca-rootca-cert.pem").read_bytes())

    @contextmanager
    def _run(self, address: str) -> Iterator[subprocess.Popen[bytes]]:
        arguments = ["--tpm2", "--tpmstate", f"dir={self.directory}/state", "--server", address]
        process = subprocess.Popen(
            ["swtpm", "socket", *arguments, "--flags", "not-need-init,startup-clear"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(10)
            self.socket.unlink(missing_ok=True)

    @contextmanager
    def tcp_client(self, port: int) -> Iterator[TpmClient]:
        """Run the TPM on a TCP port of this machine and connect."""
        address = f"type=tcp,bindaddr=127.0.0.1,port={port}"
        with self._run(address) as process:
            transport = _connect(("127.0.0.1", port), process)
            with TpmClient(transport) as client:
                yield client

    @contextmanager
    def running(self) -> Iterator[str]:
        """Run the TPM on a Unix socket; give its address, for commands that connect themselves."""
        with self._run(f"type=unixio,path={self.socket}") as process:
            _connect(self.socket, process).close()
            yield f"unix:{self.socket}"

    @property
    def roots_pem(self) -> Path:
        """The manufacturer's root."""
        return self.directory / "swtpm-localca-rootca-cert.pem"

    @property
    def issuers_pem(self) -> Path:
        """What stands between the root and the EK's certificate."""
        return self.directory / "issuercert.pem"

    @contextmanager
    def client(self) -> Iterator[TpmClient]:
        """Run the TPM on a Unix socket and connect; each time is a reset of the TPM."""
        address = f"type=unixio,path={self.socket}"
        with self._run(address) as process, TpmClient(_connect(self.socket, process)) as client:
            yield client


def _connect(address: Path | tuple[str, int], process: subprocess.Popen[bytes]) -> SocketTransport:
    """Connect as soon as the TPM listens."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return SocketTransport(address)
        except AttesterError:
            assert process.poll() is None, "swtpm ended"
            assert time.monotonic() < deadline, "swtpm does not listen"
            time.sleep(0.01)


def make_tpm(directory: Path) -> SoftwareTpm:
    """Manufacture a TPM with RSA and ECC endorsement keys and their certificates."""
    (directory / "state").mkdir(parents=True)
    (directory / "localca.conf").write_text(
        f"statedir = {directory}\nsigningkey = {directory}/signkey.pem\n"
        f"issuercert = {directory}/issuercert.pem\ncertserial = {directory}/certserial\n"
    )
    (directory / "localca.options").write_text(
        "--platform-manufacturer securetf\n--platform-version 1\n--platform-model test\n"
    )
    (directory / "setup.conf").write_text(
        "create_certs_tool = /usr/bin/swtpm_localca\n"
        f"create_certs_tool_config = {directory}/localca.conf\n"
        f"create_certs_tool_options = {directory}/localca.options\n"
    )
    arguments = ["--tpm2", "--tpmstate", f"{directory}/state", "--config", f"{directory}/setup.conf"]
    done = subprocess.run(
        ["swtpm_setup", *arguments, "--create-ek-cert"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return SoftwareTpm(directory)
