"""`securetf measure`: the software measurement of this installation."""

import json

import click

from securetf.attester.measurement import measured_files, software_measurement


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the digest of each file.")
def command(as_json: bool) -> None:
    """Print the measurement of the installed securetf and its interpreter.

    It is the Reference Value `mr_td` of [appraisal.insecure_simulation] in a Manifest. On TDX, MRTD comes
    from the image of the machine instead.
    """
    measurement = software_measurement().hex()
    if not as_json:
        click.echo(measurement)
        return
    files = {name: digest.hex() for name, digest in measured_files()}
    click.echo(json.dumps({"mr_td": measurement, "platform": "insecure_simulation", "files": files}))
