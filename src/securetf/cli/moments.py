"""The time that an option `--at` names."""

from datetime import UTC, datetime

from securetf.errors import UsageError


def moment(text: str | None) -> datetime:
    """Return the time in UTC, now if there is none.

    Raises:
        UsageError: no time, or one without a zone.
    """
    if text is None:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--at {text!r} is no time", "write it as 2026-11-22T20:00:00Z") from None
    if found.tzinfo is None:
        raise UsageError(f"--at {text!r} has no time zone", "write it as 2026-11-22T20:00:00Z")
    return found.astimezone(UTC)
