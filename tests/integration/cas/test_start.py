"""How the process starts, ends, and refuses state that is not its own."""

import re
import shutil
import subprocess
from pathlib import Path

from securetf.cas_client import CasClient
from securetf.keys import OwnerKey

from .conftest import MAIN, Process


class TestStart:
    def run(self, command: list[str]) -> tuple[int, str]:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    def test_a_port_in_use_is_named(self, cas: Process, own: Process) -> None:
        status, text = self.run(own.command(f"127.0.0.1:{cas.port}"))
        assert status == 30
        assert f"[STF-1004]: 127.0.0.1:{cas.port} cannot be listened on: Address already in use" in text

    def test_without_the_simulation_flag_nothing_starts(self, tmp_path: Path) -> None:
        status, text = self.run([*MAIN, "cas", "start", "--data", str(tmp_path / "data")])
        assert (status, "[STF-1002]" in text) == (30, True)
        assert not (tmp_path / "data").exists()

    def test_it_ends_cleanly_on_sigterm_and_starts_again_as_the_same(self, own: Process) -> None:
        first = own.start().ready["spki_sha256"]
        trust = own.trust()
        with CasClient(trust) as client:
            client.status()  # an open connection must not hold it up
            assert own.stop() == 0
        assert own.start().ready["spki_sha256"] == first

    def test_older_state_is_refused_with_both_counters(self, own: Process) -> None:
        own.start()
        own.stop()
        shutil.copytree(own.directory / "data", own.directory / "backup")
        own.start()
        with CasClient(own.trust()) as client:
            client.create_session('[session]\nname = "a/b"\n', OwnerKey.generate())
        own.stop()
        shutil.rmtree(own.directory / "data")
        (own.directory / "backup").rename(own.directory / "data")
        status, text = self.run(own.command())
        assert status == 15
        assert re.search(r"\[STF-1421\]: the database is at commit 1, the anchor at 2", text)
        assert "securetf: fix: restore the copy of the database that is at commit 2" in text

    def test_a_removed_database_is_refused(self, own: Process) -> None:
        own.start()
        own.stop()
        shutil.rmtree(own.directory / "data")
        status, text = self.run(own.command())
        assert (status, "[STF-1421]" in text) == (15, True)
        assert "holds no database, and the anchor" in text

    def test_a_missing_anchor_is_refused(self, own: Process) -> None:
        own.start()
        own.stop()
        (own.directory / "INSECURE-anchor").unlink()
        status, text = self.run(own.command())
        assert (status, "[STF-1420]" in text) == (15, True)
        assert "cannot be opened: No such file" in text

    def test_a_root_key_that_others_can_read_is_refused(self, own: Process) -> None:
        own.start()
        own.stop()
        (own.platform / "INSECURE-SIMULATION-cas-root-key").chmod(0o644)
        status, text = self.run(own.command())
        assert (status, "has mode 0644" in text) == (15, True)

    def test_a_second_process_on_the_same_data_is_refused(self, own: Process) -> None:
        own.start()
        status, text = self.run(own.command())
        assert (status, "another CAS runs on" in text) == (15, True)

    def test_the_platform_inside_the_data_directory_is_refused(self, own: Process) -> None:
        own.platform.rename(own.directory / "x")
        (own.directory / "data").mkdir()
        own.platform = own.directory / "data" / "platform"
        (own.directory / "x").rename(own.platform)
        status, text = self.run(own.command())
        assert (status, "lies inside the CAS's data directory" in text) == (2, True)
