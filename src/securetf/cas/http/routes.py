"""Which call of the table a path means. Paths are taken as they were sent: nothing in them is decoded."""

from collections.abc import Iterable, Mapping

from securetf.cas.http.call import Call


class Routes:
    """The table of calls by method and path. A `{name}` of a path stands for one segment, not empty."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self._by_length: dict[int, list[tuple[tuple[str, ...], Call]]] = {}
        for call in calls:
            pattern = tuple(call.path.split("/"))
            self._by_length.setdefault(len(pattern), []).append((pattern, call))

    def find(self, method: str, path: str) -> tuple[Call | None, Mapping[str, str]]:
        """Return the call, None when there is none, and what stands for the names in its path."""
        segments = path.split("/")
        for pattern, call in self._by_length.get(len(segments), ()):
            if call.method == method and (found := _parameters(pattern, segments)) is not None:
                return call, found
        return None, {}

    def knows(self, path: str) -> bool:
        """Whether a call has this path, by whatever method."""
        segments = path.split("/")
        candidates = self._by_length.get(len(segments), ())
        return any(_parameters(pattern, segments) is not None for pattern, _ in candidates)


def _parameters(pattern: tuple[str, ...], segments: list[str]) -> dict[str, str] | None:
    found = {}
    for expected, segment in zip(pattern, segments, strict=True):
        if expected.startswith("{") and segment:
            found[expected[1:-1]] = segment
        elif expected != segment:
            return None
    return found
