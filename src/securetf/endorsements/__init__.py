"""What others say about a platform: DCAP collateral and trust anchors. Values only, no I/O."""

from securetf.endorsements.dcap import Endorsements
from securetf.endorsements.trust import TrustAnchors

__all__ = ["Endorsements", "TrustAnchors"]
