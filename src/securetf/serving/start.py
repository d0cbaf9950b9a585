"""The service as one process: models begin to load, and what serves them is imported meanwhile."""

from collections.abc import Callable

from securetf.errors import UsageError
from securetf.serving import memory
from securetf.serving.identity import Identity
from securetf.serving.models import Models
from securetf.serving.options import Addresses, Options
from securetf.serving.watcher import Watcher


def run(options: Options, *, listening: Callable[[Addresses], None], ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; then take nothing new, answer what was taken within `drain_s`, and
    return.

    HTTP listens first, and gRPC's modules are imported meanwhile. listening: called once both interfaces
    listen, when models may still be loading. ready: once all are warm, too.

    Raises:
        UsageError, PortInUseError: as `bind`, or the models' directory is not there.
        ReceiptUnavailableError: the identity directory is incomplete.
    """
    if not options.models.is_dir():
        raise UsageError(
            f"{options.models} is not a directory", "name the directory with MODEL/VERSION/ in it"
        )
    if not (options.rest or options.grpc):
        raise UsageError("neither REST nor gRPC is to be served", "leave at least one of --rest and --grpc")
    memory.keep_freed()
    memory.collect_rarely()
    identity = Identity.from_environment()
    models = Models(options)
    watcher = Watcher(options, models, identity)
    watcher.start()
    try:
        # Reading, hashing and packing weights give up the GIL: these are imported meanwhile.
        import uvloop  # noqa: PLC0415

        from securetf.serving.receipts import Signer  # noqa: PLC0415
        from securetf.serving.server import serve  # noqa: PLC0415
        from securetf.serving.service import Service  # noqa: PLC0415

        service = Service(options, models, watcher, Signer(identity) if identity else None)
        uvloop.run(serve(service, listening, ready))
    finally:
        watcher.stop()
