"""`securetf demo`: the whole path on this machine, in simulation."""

import signal
import tempfile
from pathlib import Path

import click

from securetf.errors import UsageError

_EXAMPLE = Path("examples/mnist")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--example",
    type=click.Path(path_type=Path, file_okay=False),
    default=_EXAMPLE,
    show_default=True,
    help="The folder examples/mnist of a checkout.",
)
@click.option("--quick", is_flag=True, help="Train for one epoch only.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Work in this new directory and leave it there, with keys and plaintext.",
)
def command(example: Path, quick: bool, keep: Path | None) -> None:
    """Show the whole path on this machine, in SIMULATION. Needs root, FUSE and TensorFlow.

    A CAS is started and attested, MNIST and a Keras program are packed into encrypted volumes, trained
    on under the shields, compared with a native run, and attacked as the host could. Ends with 0 only
    if each check held; leaves nothing running and nothing on the disk.
    """
    from securetf.demo import Options, tell  # noqa: PLC0415  (rich is not needed for --help)
    from securetf.demo.screen import Screen  # noqa: PLC0415

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it ends the CAS, as Ctrl-C does
    options = Options(example=example, epochs=1 if quick else None)
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="securetf-demo-") as directory:
            tell(options, Path(directory).resolve(), Screen())
        return
    try:
        keep.mkdir(parents=True, mode=0o700)
    except FileExistsError:
        raise UsageError(f"{keep} exists already", "name a new directory") from None
    tell(options, keep.resolve(), Screen())
