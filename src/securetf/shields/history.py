"""The past of a volume: the states that its chain of roots still leads to, named as users name them."""

from collections.abc import Sequence

from securetf._core import Commit
from securetf.errors import UsageError

_LEAST_DIGITS = 8


def held(commits: Sequence[Commit], root: str) -> Commit:
    """Return the one commit whose root begins with these hexadecimal digits, with or without "sha256:".

    Raises:
        UsageError: too few digits, none, or several.
    """
    digits = root.removeprefix("sha256:").lower()
    if len(digits) < _LEAST_DIGITS or any(one not in "0123456789abcdef" for one in digits):
        raise UsageError(
            f"{root!r} is not a root: {_LEAST_DIGITS} to 64 hexadecimal digits",
            "`securetf volume log` lists the roots that are held",
        )
    found = [commit for commit in commits if commit.root.hex().startswith(digits)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{len(found)} roots begin with {digits}", "give more digits")
    raise UsageError(
        f"no held root begins with {digits}: held are the sequences {commits[0].seq} to {commits[-1].seq}",
        "`securetf volume log` lists them; older ones went with the last snapshot",
    )
