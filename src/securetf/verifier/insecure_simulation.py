"""INSECURE SIMULATION: the production TDX verification under a development root."""

from securetf.endorsements import Endorsements, TrustAnchors
from securetf.verifier import Verifier


def verifier(anchors: TrustAnchors, endorsements: Endorsements) -> Verifier:
    """Return a verifier for `Platform.INSECURE_SIMULATION`; its claims have `simulated=True`."""
    raise NotImplementedError
