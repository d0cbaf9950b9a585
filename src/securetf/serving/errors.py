"""The branch of the tree of errors that serving adds; why a request is not answered, once for all APIs."""

from enum import Enum
from typing import ClassVar, NoReturn

from securetf.errors import SecuretfError


class ServingError(SecuretfError):
    """The service cannot start or go on."""

    code: ClassVar[str] = "STF-5000"
    exit_code: ClassVar[int] = 40


class ModelLoadError(ServingError):
    """A version directory of the model repository holds no model that an engine can load, or a model that
    fails its warm-up.
    """

    code = "STF-5001"


class ReceiptUnavailableError(ServingError):
    """The identity directory from which receipts are signed is incomplete or not of the expected form."""

    code = "STF-5003"


class ConversionError(ServingError):
    """The converted model does not answer as its source does, or the source cannot be converted."""

    code = "STF-5004"


class Kind(Enum):
    """Name of the gRPC status code, and the HTTP status that TensorFlow Serving gives for it."""

    INVALID = ("INVALID_ARGUMENT", 400)
    NOT_FOUND = ("NOT_FOUND", 404)
    LATE_BODY = ("CANCELLED", 408)
    PRECONDITION = ("FAILED_PRECONDITION", 412)
    TOO_LARGE = ("RESOURCE_EXHAUSTED", 413)
    ENGINE = ("INTERNAL", 500)
    UNSUPPORTED = ("UNIMPLEMENTED", 501)
    OVERLOADED = ("RESOURCE_EXHAUSTED", 503)
    UNAVAILABLE = ("UNAVAILABLE", 503)
    LATE = ("DEADLINE_EXCEEDED", 504)

    @property
    def grpc(self) -> str:
        """The name in `grpc.StatusCode`."""
        return self.value[0]

    @property
    def http(self) -> int:
        """The HTTP status."""
        return self.value[1]


class Refusal(ServingError):  # noqa: N818  (what happens, to a client's request)
    """A request to a model is not answered: malformed, too large, too late, one too many, or for a model that
    is not there. The client gets the status of its API and this text.

    The text names what the client sent by name, shape or size, never by value.

    retry_after_s: when asking again makes sense; 0 for never.
    """

    code = "STF-5002"

    def __init__(self, kind: Kind, problem: str, fix: str, *, retry_after_s: int = 0) -> None:
        super().__init__(problem, fix)
        self.kind, self.retry_after_s = kind, retry_after_s


def invalid(problem: str, fix: str) -> NoReturn:
    """Refuse a request that is not of the form that its API or its model asks for."""
    raise Refusal(Kind.INVALID, problem, fix)
