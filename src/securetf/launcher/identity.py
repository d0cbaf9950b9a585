"""The identity directory: files in memory for a program that signs receipts.

The directory belongs to the program, which may put links there: files are made by descriptor, never followed.
"""

import os
from contextlib import suppress

from securetf.errors import LaunchError
from securetf.manifest.rules import HOME_MEMORY

DIRECTORY = f"{HOME_MEMORY}/identity"
VARIABLE = "SECURETF_IDENTITY"
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class IdentityDirectory:
    """Open from its making to `close`."""

    def __init__(self, uid: int | None, path: str = DIRECTORY) -> None:
        """Make the directory, mode 0700, for the program's user. Raises LaunchError."""
        self._uid = -1 if uid is None else uid
        try:
            os.mkdir(path, 0o700)
            self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            os.fchown(self._directory, self._uid, self._uid)
        except OSError as error:
            raise _failed(path, error) from None

    def write(self, name: str, content: bytes) -> None:
        """Replace one file, mode 0400, whole or not at all. Raises LaunchError."""
        temporary = f".{name}.new"
        try:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._directory)
            file = os.open(temporary, _FLAGS, 0o400, dir_fd=self._directory)
            with open(file, "wb") as stream:
                stream.write(content)
                os.fchown(stream.fileno(), self._uid, self._uid)
            os.rename(temporary, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except OSError as error:
            raise _failed(name, error) from None

    def close(self) -> None:
        """Forget the directory; it goes with the program's memory."""
        os.close(self._directory)


def _failed(what: str, error: OSError) -> LaunchError:
    return LaunchError(
        f"{what} of the program's identity cannot be written: {error.strerror}",
        f"leave room in {HOME_MEMORY}, and {DIRECTORY} to the launcher",
    )
