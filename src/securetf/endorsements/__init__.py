"""What others say about a platform: DCAP collateral and the trust anchors it must lead to. Values only, no I/O."""

from securetf.endorsements.dcap import Endorsements
from securetf.endorsements.trust import TrustAnchors

__all__ = ["Endorsements", "TrustAnchors"]
