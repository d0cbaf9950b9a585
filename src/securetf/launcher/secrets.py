"""Secrets on their way to the program: files on a tmpfs, or variables of its environment alone."""

import os
from collections.abc import Mapping

from securetf.errors import LaunchError

FILE_MODE = 0o400
DIRECTORY_MODE = 0o700


def write_files(files: Mapping[str, str], secrets: Mapping[str, bytes]) -> None:
    """Write each secret to its path (path to secret name). The directory must be a tmpfs of ours already.

    Raises LaunchError if a file cannot be made.
    """
    for path, name in files.items():
        try:
            file = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE
            )
            with open(file, "wb") as stream:
                stream.write(secrets[name])
        except OSError as error:
            raise LaunchError(
                f"the file {path} for the secret {name} cannot be made: {error.strerror}",
                "use another path in the Manifest's `secrets`",
            ) from None


def variables(
    wanted: Mapping[str, str], secrets: Mapping[str, bytes], hexadecimal: frozenset[str]
) -> dict[bytes, bytes]:
    """Return the variables (name to secret name in `wanted`): random secrets as hex text, values as they are.

    Raises LaunchError if a value holds a NUL, which no variable can.
    """
    found = {}
    for variable, name in wanted.items():
        value = secrets[name].hex().encode() if name in hexadecimal else secrets[name]
        if b"\0" in value:
            raise LaunchError(
                f"the secret {name} holds a NUL, so {variable} cannot carry it",
                'give it as "file:/path" instead',
            )
        found[variable.encode()] = value
    return found
