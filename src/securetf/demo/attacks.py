"""What a host may try, done for real: each must be refused, for the right reason and with its exit code."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import securetf
from securetf.demo import host
from securetf.demo.commands import Commands, Result
from securetf.demo.screen import Screen
from securetf.errors import (
    ConflictError,
    DemoError,
    ManifestHashError,
    MeasurementError,
    SecuretfError,
    VolumeIntegrityError,
    VolumeRollbackError,
)


@dataclass(frozen=True, slots=True)
class Attacks:
    """Each method makes one attack in `commands.directory` and undoes it.

    run: the arguments of the honest `securetf run`. owner: options that name CAS, session and owner's key.
    """

    commands: Commands
    screen: Screen
    run: tuple[str, ...]
    owner: tuple[str, ...]

    def flip_a_byte(self) -> None:
        """Change one bit of the data set's ciphertext: the program gets an error, never a wrong byte."""
        self.screen.say("The host changes one bit of the data set's ciphertext.")
        volume = self._directory / "volumes" / "train-data"
        with self._put_back(volume):
            victim = host.largest_file(volume)
            host.flip_bit(victim, victim.stat().st_size // 2)
            result = self.commands.attempt(*self.run)
        in_program, code = result.line_with("Bad message"), VolumeIntegrityError.code
        if result.code == 0 or not in_program or not result.line_with(f"[{code}]"):
            raise _wrong("a changed bit in train-data", f"EBADMSG in the program, then {code}", result)
        self.screen.output(in_program)
        self._refused(result.line_with("securetf: error"), result)

    def roll_back(self, older: Path) -> None:
        """Put an older copy of the model's volume back."""
        self.screen.say("The host puts back the model's volume as it was before that last run.")
        volume = self._directory / "volumes" / "model"
        with self._put_back(volume):
            shutil.rmtree(volume)
            shutil.copytree(older, volume)
            result = self.commands.attempt(*self.run)
        self._expect(VolumeRollbackError, "a rolled-back model", result)

    def exchange_the_code(self, changed: Path) -> None:
        """Put a volume with other code, made by the host itself, in the place of the reviewed one."""
        self.screen.say(
            "The host makes a volume of its own with a changed train.py and puts it in place of `code`."
        )
        volume = self._directory / "volumes" / "code"
        trust = ("--trust-file", "host-trust.json")
        self.commands.securetf("volume", "create", "host-code", *trust, quiet=True)
        self.commands.securetf("volume", "pack", changed.name, "host-code", *trust, quiet=True)
        with self._put_back(volume):
            shutil.rmtree(volume)
            shutil.copytree(self._directory / "host-code", volume)
            result = self.commands.attempt(*self.run)
        self._expect(VolumeIntegrityError, "an exchanged code volume", result)

    def pack_other_code(self, changed: Path) -> None:
        """Pack other code with the owner's key, but without a new Manifest that names its root."""
        self.screen.say("Someone with the owner's key packs the changed train.py, without a new Manifest.")
        self.commands.securetf(
            "volume", "pack", changed.name, "volumes/code", "--volume", "code", *self.owner, quiet=True
        )
        result = self.commands.attempt(*self.run)
        self._expect(ConflictError, "code whose root the Manifest does not name", result)

    def change_the_manifest(self, manifest: str) -> None:
        """Start the trainer with another Manifest than the one that the CAS has."""
        self.screen.say("The host starts the trainer with a Manifest that it changed: another command.")
        text = (self._directory / manifest).read_text()
        (self._directory / "host.toml").write_text(text.replace("/app/train.py", "/tmp/steal.py"))  # noqa: S108
        run = tuple("host.toml" if argument == manifest else argument for argument in self.run)
        result = self.commands.attempt(*run)
        self._expect(ManifestHashError, "a changed Manifest", result)

    def change_securetf(self) -> None:
        """Run a copy of securetf with one line added: its measurement is another one."""
        self.screen.say("The host runs its own copy of securetf, with one line added to the launcher.")
        package = Path(securetf.__file__).parent
        copy = self._directory / "modified" / "securetf"
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
        with (copy / "launcher" / "secrets.py").open("a") as file:
            file.write("\nSTOLEN: list[bytes] = []\n")
        result = self.commands.attempt(*self.run, environment={"PYTHONPATH": "modified"})
        self._expect(MeasurementError, "a modified securetf", result)

    def read_the_audit_log(self) -> None:
        """The CAS's audit log holds each refusal that the CAS decided, with its reason."""
        self.screen.say("What the CAS refused stands in its audit log:")
        session = self.owner[self.owner.index("--session") + 1]
        log = self.commands.securetf(
            "audit", "show", session, *self.owner[: self.owner.index("--session")], quiet=True
        )
        refusals = [line for line in log.lines if " refused " in line]
        for line in refusals:
            self.screen.output(line)
        for error in (ManifestHashError, MeasurementError, ConflictError):
            if not any(error.code in line for line in refusals):
                raise DemoError(f"the audit log has no entry for {error.code}", "report this as a defect")

    @property
    def _directory(self) -> Path:
        return self.commands.directory

    def _put_back(self, volume: Path) -> "_PutBack":
        return _PutBack(volume)

    def _expect(self, error: type[SecuretfError], what: str, result: Result) -> None:
        """Check code and exit code of the refusal; a derived class of `error` will do as well."""
        accepted = {error, *error.__subclasses__()}
        if not any(result.code == one.exit_code and result.line_with(f"[{one.code}]") for one in accepted):
            raise _wrong(what, f"{error.code} and exit code {error.exit_code}", result)
        self._refused(result.line_with("securetf: error"), result)

    def _refused(self, message: str, result: Result) -> None:
        self.screen.output(message)
        if fix := result.line_with("securetf: fix"):
            self.screen.output(fix)
        self.screen.held(f"refused, exit code {result.code}")


class _PutBack:
    """Keeps a copy of a volume's directory and puts it back at the end."""

    def __init__(self, volume: Path) -> None:
        self._volume, self._copy = volume, volume.with_name(f".{volume.name}.kept")

    def __enter__(self) -> None:
        shutil.copytree(self._volume, self._copy)

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._volume)
        self._copy.rename(self._volume)


def _wrong(what: str, expected: str, result: Result) -> DemoError:
    said = "\n".join(result.lines[-15:])
    return DemoError(
        f"{what} was not refused as expected ({expected}); exit code {result.code} and:\n{said}",
        "do not use this release for anything confidential, and report this",
    )
