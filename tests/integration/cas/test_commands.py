"""The commands of owners against the real process."""

import json
import os
import subprocess
from pathlib import Path

from securetf.attester.measurement import software_measurement
from securetf.cas_client import load_trust
from securetf.keys import create_owner_key

from .conftest import MAIN, SESSION, Process, manifest


class TestCommands:
    def run(self, *arguments: object, status: int = 0) -> str:
        done = subprocess.run(
            [*MAIN, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    def test_an_owner_needs_only_the_command_line(self, cas: Process, tmp_path: Path) -> None:
        trust_file, key = tmp_path / "cas.json", tmp_path / "owner.pem"
        measurement, root = software_measurement().hex(), cas.platform / "root.pem"
        attest = ("cas", "attest", cas.ready["url"], "--insecure-simulation-root", root)
        out = self.run(*attest, "--measurement", measurement, "--out", trust_file)
        assert "SIMULATION" in out
        assert load_trust(trust_file).spki_sha256 == cas.ready["spki_sha256"]
        assert json.loads(self.run("cas", "status", "--cas", trust_file, "--json"))["status"] == "ready"
        key_id = self.run("key", "new", key).strip()
        assert self.run("key", "show", key).strip() == key_id
        owner = ("--cas", trust_file, "--key", key)
        name = f"acme/cli-{os.getpid()}"
        (tmp_path / "m.toml").write_text(manifest(measurement).replace(SESSION, name))
        created = json.loads(self.run("session", "create", tmp_path / "m.toml", *owner, "--json"))
        assert (created["creator"], created["version"], created["simulated"]) == (key_id, 1, True)
        (tmp_path / "value").write_bytes(b"v")
        source = ("--from-file", tmp_path / "value")
        self.run("secret", "import", "--session", name, "--secret", "token", *owner, *source)
        text = (tmp_path / "m.toml").read_text()
        (tmp_path / "m2.toml").write_text(
            text.replace("[appraisal", f'predecessor = "{created["manifest_hash"]}"\n[appraisal', 1)
        )
        self.run("session", "update", tmp_path / "m2.toml", *owner)
        assert self.run("session", "show", name, *owner, "--manifest") == (tmp_path / "m2.toml").read_text()
        assert "never written" in self.run("session", "show", name, *owner)
        assert len(json.loads(self.run("session", "history", name, *owner, "--json"))["versions"]) == 2
        assert "granted session.update" in self.run("audit", "show", name, *owner)
        self.run("audit", "export", name, tmp_path / "log.jsonl", *owner)
        verify = ("audit", "verify", tmp_path / "log.jsonl", "--cas", trust_file, "--json")
        summary = json.loads(self.run(*verify))
        assert summary["visible"] >= 5
        lines = (tmp_path / "log.jsonl").read_text().replace("granted", "refused")
        (tmp_path / "forged.jsonl").write_text(lines)
        error = self.run("audit", "verify", tmp_path / "forged.jsonl", "--cas", trust_file, status=15)
        assert "[STF-1422]" in error

    def test_bad_files_are_named(self, cas: Process, tmp_path: Path) -> None:
        create_owner_key(tmp_path / "owner.pem")
        (tmp_path / "owner.pem").chmod(0o644)
        (tmp_path / "cas.json").write_text("{}")
        (tmp_path / "m.toml").write_text('[session]\nname = "a/b"\n')
        owner = ("--cas", tmp_path / "cas.json", "--key", tmp_path / "owner.pem")
        assert "is not a trust file" in self.run("session", "create", tmp_path / "m.toml", *owner, status=14)
        cas_json = self.run(
            "cas", "attest", cas.ready["url"], "--insecure-simulation-root", cas.platform / "root.pem",
            "--measurement", software_measurement().hex(), "--out", tmp_path / "cas.json", "--json",
        )  # fmt: skip
        assert json.loads(cas_json)["simulated"] is True
        assert "has mode 0644" in self.run("session", "create", tmp_path / "m.toml", *owner, status=16)
        error = self.run(
            "cas", "attest", cas.ready["url"], "--insecure-simulation-root", tmp_path / "none",
            "--measurement", "00", status=11,
        )  # fmt: skip
        assert "is not 96 lower-case hex digits" in error
