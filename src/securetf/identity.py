"""SPIFFE identities of workloads (SPIFFE-ID specification, section 2)."""

import re
from dataclasses import dataclass

from securetf.errors import UsageError

# Of the extension in a member's certificate with Manifest hash and generation; docs/formats/x509-svid.md
MEMBER_OID = "2.25.241264834617359218340961184053911216381"
_SEGMENT = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_DOMAIN = re.compile(r"[a-z0-9._-]{1,128}\Z")


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """`spiffe://<trust domain>/<tenant>/<session>/<workload>/<instance>`."""

    trust_domain: str
    session: str
    workload: str
    instance: int

    def __post_init__(self) -> None:
        parts = [*self.session.split("/"), self.workload]
        if not _DOMAIN.match(self.trust_domain) or len(parts) != 3:
            raise UsageError(
                f"{self.trust_domain!r} and {self.session!r} make no SPIFFE ID",
                "name a trust domain in lower case and a session as tenant/name",
            )
        for part in parts:
            if not _SEGMENT.match(part) or part in {".", ".."}:
                raise UsageError(
                    f"{part!r} cannot be a segment of a SPIFFE ID",
                    "use 1 to 64 letters, digits, dots, dashes and underscores",
                )
        if not 0 <= self.instance < 2**16:
            raise UsageError(f"instance {self.instance} is out of range", "use 0 to 65535")

    @classmethod
    def parse(cls, text: str) -> "SpiffeId":
        """Read one of ours.

        Raises:
            UsageError: not of the form.
        """
        parts = text.removeprefix("spiffe://").split("/")
        if text.startswith("spiffe://") and len(parts) == 5 and parts[4].isascii() and parts[4].isdigit():
            made = cls(parts[0], f"{parts[1]}/{parts[2]}", parts[3], int(parts[4][:6]))
            if str(made) == text:
                return made
        raise UsageError(
            f"{text[:200]!r} is not a SPIFFE ID of a workload",
            "expected spiffe://domain/tenant/name/workload/N",
        )

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/{self.session}/{self.workload}/{self.instance}"
