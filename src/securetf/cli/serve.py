"""`securetf serve`: models behind the interfaces that clients already speak."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from securetf.errors import UsageError
from securetf.serving.options import Addresses, Options, cores

_CONTEXT = {"help_option_names": ["-h", "--help"]}
_D = Options(models=Path())


@click.command(context_settings=_CONTEXT)
@click.option(
    "--models", required=True, type=click.Path(path_type=Path), help="Directory with MODEL/VERSION/ in it."
)
@click.option(
    "--rest", default=_D.rest, show_default=True, help="HOST:PORT of HTTP; empty for none, port 0 for any."
)
@click.option(
    "--grpc", default=_D.grpc, show_default=True, help="HOST:PORT of gRPC; empty for none, port 0 for any."
)
@click.option(
    "--workers", type=click.IntRange(1, 256), help="Requests computed at once per version (default: cores)."
)
@click.option(
    "--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Threads of each worker."
)
@click.option(
    "--queue", type=click.IntRange(1), default=_D.queue, show_default=True, help="Requests that may wait."
)
@click.option(
    "--deadline",
    "deadline_s",
    type=click.FloatRange(0.001),
    default=_D.deadline_s,
    show_default=True,
    help="Seconds for a request that names no deadline.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Examples of several requests computed at once; 1 is off.",
)
@click.option(
    "--batch-wait-ms",
    type=click.FloatRange(0),
    default=2.0,
    show_default=True,
    help="How long a request waits for others.",
)
@click.option(
    "--max-body-mb",
    type=click.IntRange(1, 2047),
    default=64,
    show_default=True,
    help="Largest request, in MiB.",
)
@click.option(
    "--max-inflight-mb",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Memory that requests may hold at once, in MiB.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(1),
    default=_D.max_connections,
    show_default=True,
    help="Requests and connections at once.",
)
@click.option(
    "--body-timeout",
    "body_timeout_s",
    type=click.FloatRange(0.1),
    default=_D.body_timeout_s,
    show_default=True,
    help="Seconds in which a request must be complete.",
)
@click.option(
    "--header-timeout",
    "header_timeout_s",
    type=click.FloatRange(0.1),
    default=_D.header_timeout_s,
    show_default=True,
    help="Seconds in which its head must be complete.",
)
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(1),
    default=_D.drain_s,
    show_default=True,
    help="Seconds for what was taken when the service is asked to end.",
)
@click.option(
    "--poll",
    "poll_s",
    type=click.FloatRange(0.05),
    default=_D.poll_s,
    show_default=True,
    help="Seconds between looks for new versions.",
)
@click.option(
    "--versions",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="How many of the highest versions are served.",
)
@click.option(
    "--label", "labels", multiple=True, metavar="MODEL:LABEL=VERSION", help="Name a version. Repeatable."
)
@click.option(
    "--allow-lower-versions", is_flag=True, help="Serve an older version if the newest goes: a rollback."
)
@click.option("--allow-non-finite", is_flag=True, help="Take inputs with NaN and infinite values.")
@click.option(
    "--allow-reload-config", is_flag=True, help="Let clients set labels (HandleReloadConfigRequest)."
)
def command(
    batch_wait_ms: float,
    max_body_mb: int,
    max_inflight_mb: int,
    labels: tuple[str, ...],
    workers: int | None,
    **given: Any,
) -> None:
    """Serve the models of a directory until SIGTERM: TensorFlow Serving's REST and gRPC, and the Open
    Inference Protocol's. Each MODEL/VERSION/ holds one .tflite, one .keras or one SavedModel.

    It ends no TLS: under `securetf run` the network shield does, and clients attest it first.
    """
    # numpy's threads for linear algebra, of which there is none here, would spin while the models load.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from securetf.serving.start import run  # noqa: PLC0415  (`--help` needs none of it)

    handler = logging.StreamHandler()
    handler.setFormatter(_Events())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    options = Options(
        **given,
        workers=workers or cores(),
        batch_wait_s=batch_wait_ms / 1000,
        max_body_bytes=max_body_mb << 20,
        max_inflight_bytes=max_inflight_mb << 20,
        labels=_labels(labels),
    )

    def listening(where: Addresses) -> None:
        print(
            f"securetf: listening: rest {where.rest or 'off'}, grpc {where.grpc or 'off'}",
            file=sys.stderr,
            flush=True,
        )

    run(options, listening=listening, ready=lambda: print("securetf: ready", file=sys.stderr, flush=True))


class _Events(logging.Formatter):
    """An event's name and its fields, which hold names of models and reasons, never anything of a request."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: getattr(record, name, None) for name in ("model", "version", "problem")}
        shown = ", ".join(f"{name} {value}" for name, value in fields.items() if value is not None)
        return f"securetf: {record.getMessage()}: {shown}".removesuffix(": ")


def _labels(given: tuple[str, ...]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for one in given:
        model, _, rest = one.partition(":")
        label, equals, number = rest.partition("=")
        if not (model and label and equals and number.isdecimal()):
            raise UsageError(
                f"--label {one!r} is not MODEL:LABEL=VERSION", "write for example digits:stable=3"
            )
        found.setdefault(model, {})[label] = int(number)
    return found
