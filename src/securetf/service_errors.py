"""Errors of clients of services: the part of the tree of `errors` with the codes STF-1120 and STF-15nn.

Attestation (exit 17, 18) and authorisation (exit 19) fail with different errors.
"""

from securetf.errors import SecuretfError


class ClientPolicyError(SecuretfError):
    """A client's policy file cannot be used as it is; the message names the key. Nothing was sent."""

    code = "STF-1120"
    exit_code = 12


class ServiceNotProvedError(SecuretfError):
    """A service did not prove what the client's policy asks for; all failed checks are named. Nothing was
    sent."""

    code = "STF-1500"
    exit_code = 17
    verdict: object = None  # the `securetf.client.Verdict` with all checks, where there is one


class StatementError(ServiceNotProvedError):
    """What answered is not a service with a statement: not TLS 1.3, or another form. Nothing was sent."""

    code = "STF-1501"


class ReceiptError(ServiceNotProvedError):
    """A receipt does not hold, or is not about this request, response, model or service."""

    code = "STF-1502"


class ServiceUnreachableError(SecuretfError):
    """A service did not answer: connection refused, timed out or lost before it proved itself."""

    code = "STF-1510"
    exit_code = 18


class ClientNotAuthorisedError(SecuretfError):
    """A service that has proved itself does not admit this client: its key is missing or not on the list."""

    code = "STF-1520"
    exit_code = 19
