"""Why endorsements cannot be had: errors of this package, of the tree in `securetf.errors`."""

from securetf.errors import EndorsementError


class EndorsementMissingError(EndorsementError):
    """The endorsements are not in the cache, and could not be fetched."""

    code = "STF-1212"


class EndorsementExpiredError(EndorsementError):
    """The cached endorsements are outside their validity window, and nothing newer could be had."""

    code = "STF-1213"


class EndorsementSourceError(EndorsementError):
    """The vendor's service (Intel PCS or a PCCS, AMD KDS, a TPM manufacturer) did not give what was asked."""

    code = "STF-1214"
