"""`securetf convert`: Keras models and SavedModels to LiteRT."""

import json
from dataclasses import asdict
from pathlib import Path

import click


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    type=click.Choice(["float32", "dynamic-range"]),
    default="float32",
    show_default=True,
    help="Weights as they are, or as 8-bit integers with scales.",
)
@click.option(
    "--inputs",
    type=click.Path(exists=True, path_type=Path),
    help="Examples to compare both on: .npz with one array per input, or .npy. Default: random ones.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    help="Largest difference relative to an output's largest value (default: 1e-4; dynamic-range 0.05).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    source: Path, target: Path, precision: str, inputs: Path | None, tolerance: float | None, as_json: bool
) -> None:
    """Convert SOURCE (.keras file or SavedModel directory) to the LiteRT file TARGET, such as
    models/digits/2/model.tflite. TARGET is only written if it answers as SOURCE does.
    """
    from securetf.serving.convert import convert  # noqa: PLC0415  (`--help` needs none of it)

    done = convert(source, target, precision=precision, inputs=inputs, tolerance=tolerance)
    if as_json:
        click.echo(json.dumps({**asdict(done), "target": str(target), "precision": precision}))
        return
    compared = "random examples" if inputs is None else "examples given"
    click.echo(f"{target}: {done.size_bytes} bytes, sha256 {done.sha256}")
    click.echo(f"compared on {done.checked} {compared}: largest relative difference {done.difference:.3g}")
