"""Runs the launcher in its own process with real namespaces, tmpfs, bind mounts and programs, but no CAS.

argv[1]: a JSON file with manifest, workload, volumes {name: directory}, secrets {name: hex} and what fails.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from securetf import manifest as manifests
from securetf.errors import CasUnreachableError, ManifestHashError, NetworkShieldError, SecuretfError
from securetf.launcher import program
from securetf.launcher.network import Stages
from securetf.launcher.plan import plan
from securetf.launcher.progress import Progress
from securetf.launcher.report import Report
from securetf.launcher.run import check_host, run
from securetf.launcher.stages import Anchor
from securetf.provisioning import NetworkGrant, Provision, VolumeGrant

LIBC = ctypes.CDLL(None, use_errno=True)
MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MS_RDONLY = 2, 4, 32, 4096, 16384, 1 << 18, 1
GRANT = NetworkGrant(trust_domain="cas.test", chain=[b"leaf"], trust_root=b"root", not_after=0, lifetime_s=4)
CLONE_NEWNS, CLONE_FS, MNT_DETACH = 0x20000, 0x200, 2


def done(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    done(LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()))


class FixedProvisioner:
    def __init__(self, config: dict, planned) -> None:
        self.config, self.planned, self.polls = config, planned, 0

    def measure(self) -> None:
        event("measure")

    def provision(self, offer) -> Provision:
        event("provision" if offer is None else f"provision {offer.spki.decode()} {offer.endpoint}")
        time.sleep(self.config.get("provision_seconds", 0))
        if self.config.get("unreachable"):
            raise CasUnreachableError("nobody listens on 127.0.0.1:1", "start the CAS")
        grants = [
            VolumeGrant(
                name=one.name, volume_id=bytes(16), key=bytes(32), key_version=1,
                epoch=1, seq=0, root=bytes(32),
                writable=one.writable, freshness="group", mount_path=one.path, chunk_size=65536,
            )
            for one in self.planned.mounts
            if one.kind == "volume"
        ]  # fmt: skip
        return Provision(
            session="acme/test",
            workload=self.planned.workload,
            instance=0,
            manifest_hash=bytes.fromhex(self.config.get("manifest_hash", self.planned.manifest_hash.hex())),
            volumes=grants,
            secrets={name: bytes.fromhex(value) for name, value in self.config.get("secrets", {}).items()},
            network=GRANT if offer is not None else None,
        )

    def members(self):
        event("members")
        if self.config.get("revoked_after", 99) <= self.polls:
            raise ManifestHashError("the Manifest was replaced", "take the current one")
        self.polls += 1
        ready = self.polls > self.config.get("not_ready", 0)
        return SimpleNamespace(
            members=[],
            ready=ready,
            volumes={},
            missing=[] if ready else ["worker-1"],
            tf_config=self.config.get("tf_config"),
        )

    def renew(self, offer):
        event(f"renew {offer.spki.decode()}")
        return GRANT

    def leave(self) -> None:
        event("leave")

    def report_denials(self, denials, _dropped: int) -> None:
        for one in denials:
            event(f"denied {one.destination}")

    def anchor(self, grant: VolumeGrant) -> Anchor:
        def advance(*_: object) -> None:
            raise AssertionError(f"{grant.name} is a bind mount")

        return advance

    def close(self) -> None:
        event("close")


class KernelShield:
    """Bind mounts stand for volumes: the launcher cannot tell them apart."""

    def __init__(self, config: dict) -> None:
        self.config = config

    def enter_namespace(self) -> None:
        done(LIBC.unshare(CLONE_NEWNS | CLONE_FS))
        mount("none", "/", "none", MS_REC | MS_PRIVATE)

    def mount_memory(self, path: str, *, size_bytes: int, mode: int) -> None:
        mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size_bytes},mode={mode:o}")
        event(f"mount {path}")

    def unmount_memory(self, path: str) -> None:
        done(LIBC.umount2(path.encode(), MNT_DETACH))
        event(f"unmount {path}")

    def cover_file(self, source: str, path: str) -> None:
        self.bind(source, path)
        mount("none", path, "none", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)

    def bind(self, source: str, path: str) -> None:
        mount(source, path, "none", MS_BIND)

    def mount_ephemeral(self, _name: str, directory: Path, path: str) -> "BindMount":
        directory.mkdir(exist_ok=True)
        made = tempfile.mkdtemp(dir=directory)
        mount(made, path, "none", MS_BIND)
        event(f"mount {path}")
        return BindMount(path, uncommitted=False, gone_when_closed=made)

    def mount_volume(self, grant: VolumeGrant, _anchor: Anchor, directory: Path, path: str) -> "BindMount":
        if grant.name == self.config.get("broken_volume"):
            raise CasUnreachableError(f"volume {grant.name} cannot be opened", "start the CAS")
        directory.mkdir(exist_ok=True)
        mount(str(directory), path, "none", MS_BIND)
        if not grant.writable:
            mount("none", path, "none", MS_BIND | MS_REMOUNT | MS_RDONLY)
        event(f"mount {path}")
        return BindMount(path, grant.name in self.config.get("uncommitted", []))


class BindMount:
    def __init__(self, path: str, uncommitted: bool, gone_when_closed: str | None = None) -> None:
        self.path, self.uncommitted, self.gone_when_closed = path, uncommitted, gone_when_closed

    def in_memory(self) -> str | None:
        return config.get("in_memory")

    def transport(self) -> str:
        return "bind"

    def integrity_errors(self) -> tuple[int, str]:
        return config.get("integrity_errors", 0), "chunk 7 of /file"

    def stale_errors(self) -> int:
        return config.get("stale_errors", 0)

    def unmount(self) -> None:
        done(LIBC.umount2(self.path.encode(), 0))  # not detached: fails if a process was left in it
        event(f"unmount {self.path}")

    def close(self) -> None:
        event(f"commit {self.path}")
        if self.uncommitted:
            raise CasUnreachableError("the CAS was lost", "start the CAS")
        if self.gone_when_closed is not None:
            shutil.rmtree(self.gone_when_closed)


class NoNetwork:
    """Stands for the native shield: the program is started with setpriv and keeps the machine's network."""

    def __init__(self, config: dict) -> None:
        self.config, self.keys = config, 0

    def endpoint(self) -> str:
        return "127.0.0.1:1"

    def new_key(self) -> bytes:
        self.keys += 1
        return b"key%d" % self.keys

    def raise_shield(self, policy: str, grant: NetworkGrant | None) -> None:
        event(f"raise {json.loads(policy)['me']['names'][0]} {grant and grant.trust_domain}")
        if "unraisable" in self.config:
            raise NetworkShieldError(self.config["unraisable"], "use another machine")

    def hosts(self) -> str:
        return "127.0.0.1 localhost of-the-shield\n"

    def resolv_conf(self) -> str:
        return "nameserver 127.0.0.1\n"

    def spawn(self, command, environment, directory, uid) -> int:
        confined = ["/usr/bin/setpriv", "--pdeathsig", "KILL", "--no-new-privs"]
        confined += [] if uid is None else ["--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
        self.process = subprocess.Popen(
            [*confined, "--", *command], env=environment, cwd=directory, start_new_session=True
        )
        return self.process.pid

    def set_endpoints(self, endpoints) -> None:
        pass

    def install(self, _grant: NetworkGrant) -> None:
        event("install")

    def revoke(self, reason: str) -> None:
        event(f"revoke {reason}")

    def denials(self):
        found = [SimpleNamespace(**one) for one in self.config.get("denials", [])]
        self.config["denials"] = []
        return found, 0

    def fallback(self) -> None:
        return None

    def stats(self) -> dict:
        return {"interceptor": "none"}

    def lower(self) -> None:
        event("lower")


def event(what: str) -> None:
    if "events" in config:
        with open(config["events"], "a") as file:
            file.write(what + "\n")


config = json.loads(Path(sys.argv[1]).read_text())
program.CANCEL_S = config.get("cancel_s", program.CANCEL_S)
try:
    planned = plan(
        manifests.load(Path(config["manifest"])),
        config.get("workload", "trainer"),
        host_environment=os.environ,
        directories={name: Path(directory) for name, directory in config.get("volumes", {}).items()},
    )
    check_host(
        planned,
        mount_by=config.get("mount_by", "auto"),
        fuse=Path(config.get("fuse", "/dev/null")),
        device_number=os.stat("/dev/null").st_rdev,
    )
    progress = os.open(config["progress"], os.O_WRONLY | os.O_CREAT) if "progress" in config else None
    report = Report()
    report.add_start_of_process()
    outcome = run(
        planned,
        provisioner=FixedProvisioner(config, planned),
        shield=KernelShield(config),
        network=Stages(
            network=NoNetwork(config),
            progress=Progress(progress),
            members_deadline_s=config.get("deadline_s", 600),
        ),
        report=report,
    )
    if "report" in config:
        report.write(Path(config["report"]))
    for problem in outcome.problems:
        print(problem, file=sys.stderr)
    sys.exit(outcome.status)
except SecuretfError as error:
    print(f"[{error.code}] {error}", file=sys.stderr)
    sys.exit(error.exit_code)
