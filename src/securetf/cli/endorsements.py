"""`securetf endorsements fetch|import|show`: what the vendors say about platforms, kept on disk."""

import json
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from securetf.claims import Evidence
from securetf.cli.evidence_kinds import SIZE_LIMIT, detect
from securetf.cli.moments import moment
from securetf.endorsements import Endorsements
from securetf.endorsements.cache import Artefact, Cache
from securetf.endorsements.importing import FILE_LIMIT, import_files
from securetf.endorsements.library import Library, Value
from securetf.endorsements.needs import DcapNeed, Need, PckCa, SnpNeed, Tee
from securetf.endorsements.refreshing import refresh
from securetf.endorsements.sev_snp import SnpEndorsements
from securetf.endorsements.sources import DEADLINE_S, TPM_HOSTS, Sources, Update
from securetf.endorsements.tpm import Issuers
from securetf.errors import EndorsementError, UsageError
from securetf.evidence.sev_snp import SnpKey, SnpProduct, SnpTcb
from securetf.verifier.needs import needs_of

_TCB_NAMES = ("bootloader", "tee", "snp", "microcode", "fmc")
_FILE = click.Path(path_type=Path)
_CACHE = click.option(
    "--cache",
    "directory",
    type=_FILE,
    envvar="SECURETF_ENDORSEMENTS",
    help="Directory of the cache. Default: SECURETF_ENDORSEMENTS, or ~/.cache/securetf/endorsements.",
)
_AT = click.option("--at", "at", help="Time at which it must count, ISO 8601 with a zone. Default: now.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_UPDATE = click.option(
    "--update",
    type=click.Choice([one.value for one in Update]),
    default=Update.STANDARD.value,
    show_default=True,
    help="Intel's TCB evaluation data: `early` has a TCB recovery at once, `standard` months later.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Fetch, import and show what vendors say about platforms: collateral, certificates, revocation lists.

    Nothing is authenticated here: whoever verifies Evidence checks every signature and date.
    """
    _be_quiet()


@command.command()
@click.argument("files", type=_FILE, nargs=-1)
@_CACHE
@click.option("--fmspc", help="Without Evidence: FMSPC of an Intel platform, 12 hex digits.")
@click.option("--tee", type=click.Choice([one.value for one in Tee]), help="With --fmspc: which TEE.")
@click.option(
    "--pck-ca",
    type=click.Choice([one.value for one in PckCa]),
    default=PckCa.PLATFORM.value,
    show_default=True,
    help="With --fmspc: issuer of the PCK certificates.",
)
@click.option("--product", type=click.Choice([one.value for one in SnpProduct]), help="AMD's product line.")
@click.option("--chip-id", help="With --product: the chip's id in hex; without it, chain and list only.")
@click.option(
    "--tcb", help="With --chip-id: reported TCB as bootloader=N,tee=N,snp=N,microcode=N, on Turin also fmc=N."
)
@click.option("--vlek", is_flag=True, help="With --product: chain of a cloud provider's VLEK.")
@click.option("--refresh", "again", is_flag=True, help="Fetch again what the cache holds, before it expires.")
@_UPDATE
@click.option("--pccs", help="Address of a PCCS, in place of Intel's own service.")
@click.option("--kds", help="Address of AMD's KDS, or of a copy of it.")
@click.option("--tpm-host", "tpm_hosts", multiple=True, help="A further host that TPM certificates may name.")
@click.option("--tls-ca", type=_FILE, help="PEM of authorities for the services' TLS, not the system's.")
@click.option("--deadline", type=click.FloatRange(0.1, 600), default=DEADLINE_S, help="Seconds per request.")
@_AT
@_JSON
def fetch(
    files: tuple[Path, ...], directory: Path | None, at: str | None, as_json: bool, **options: Any
) -> None:
    """Fetch what the Evidence in FILES needs, or a platform named by options; what is valid is not fetched.

    Addresses are Intel's, AMD's and the TPM manufacturers' own, unless others are given. With --refresh, what
    cannot be had again is kept as it is and named on standard error.
    """
    needs = [need for file in files for need in _needs(file)] + _named(options)
    if not needs and not options["again"]:
        raise UsageError(
            "nothing was named that needs endorsements", "name an Evidence file, or --fmspc, --product"
        )
    now, services = moment(at), sources(options)
    library = Library(_cache(directory), services)
    for name, error in (refresh(library.cache, services, now=now) if options["again"] else {}).items():
        if error is not None:
            click.echo(f"{name} is kept as it was: {error.problem}", err=True)
    for need in needs:
        library.obtain(need, now=now)
    _print(library.cache, now, as_json)


@command.command("import")
@click.argument("files", type=_FILE, nargs=-1, required=True)
@_CACHE
@_UPDATE
@_AT
@_JSON
def import_(
    files: tuple[Path, ...], directory: Path | None, update: str, at: str | None, as_json: bool
) -> None:
    """Import FILES, or all files of directories: collateral (JSON), AMD's files (PEM, DER), another cache.

    All of them or none: the first that cannot be used ends it.
    """
    now, cache = moment(at), _cache(directory)
    found = [path for file in files for path in (_files_in(file) if file.is_dir() else [file])]
    contents = [(path.name, _read(path, FILE_LIMIT)) for path in found]
    import_files(cache, contents, update=update, now=now)
    _print(cache, now, as_json)


@command.command()
@_CACHE
@_AT
@_JSON
def show(directory: Path | None, at: str | None, as_json: bool) -> None:
    """Print what the cache holds, from when to when it counts, and where it came from."""
    _print(_cache(directory), moment(at), as_json)


def _cache(directory: Path | None) -> Cache:
    return Cache(directory or Path.home() / ".cache" / "securetf" / "endorsements")


def sources(options: dict[str, Any]) -> Sources:
    """Return the services that the options name; the vendors' own where they name none."""
    changed: dict[str, Any] = {}
    if options["pccs"]:
        changed |= {"intel": options["pccs"], "intel_root_crl": None}
    if options["kds"]:
        changed["amd"] = options["kds"]
    return Sources(
        **changed,
        tpm_hosts=(*TPM_HOSTS, *options["tpm_hosts"]),
        update=Update(options["update"]),
        deadline_s=options["deadline"],
        ca_file=str(options["tls_ca"]) if options["tls_ca"] else None,
    )


def cached(directory: Path | None, raw: bytes, now: datetime) -> list[bytes]:
    """Return, as files, the endorsements that a cache has for this Evidence; nothing without a cache.

    Raises:
        EndorsementError: it has none, or none that count at `now`.
    """
    if directory is None:
        return []
    library = Library(Cache(directory), None)
    with warnings.catch_warnings():
        _be_quiet()
        found = [library.obtain(need, now=now) for need in needs_of(Evidence(detect(raw), raw))]
    return [content for value in found for content in _files(value)]


def _be_quiet() -> None:
    """Ignore what `cryptography` says of genuine certificates."""
    warnings.filterwarnings("ignore", message="Parsed a serial number which wasn't positive")  # AMD's VCEKs
    warnings.filterwarnings("ignore", message="Attribute's length must be")  # Google's issuers


def _files(value: Value) -> list[bytes]:
    match value:
        case Endorsements():
            return [value.to_json().encode()]
        case SnpEndorsements():
            parts = (value.root, value.ask, value.asvk, value.vek, value.crl)
            return [part for part in parts if part is not None]
        case Issuers():
            return [*value.certificates, *value.crls]


def _needs(file: Path) -> tuple[Need, ...]:
    raw = _read(file, SIZE_LIMIT)
    return needs_of(Evidence(detect(raw), raw))


def _named(options: dict[str, Any]) -> list[Need]:
    found: list[Need] = []
    if options["fmspc"]:
        if not options["tee"]:
            raise UsageError("--fmspc without --tee", "say --tee tdx or --tee sgx")
        tee, ca = Tee(options["tee"]), PckCa(options["pck_ca"])
        found.append(DcapNeed(tee=tee, fmspc=options["fmspc"].upper(), ca=ca))
    if options["product"]:
        if bool(options["chip_id"]) != bool(options["tcb"]) or (options["vlek"] and options["chip_id"]):
            raise UsageError(
                "--chip-id and --tcb belong together, and a VLEK has neither", "give both, or none of them"
            )
        found.append(
            SnpNeed(
                product=SnpProduct(options["product"]),
                key=SnpKey.VLEK if options["vlek"] else SnpKey.VCEK,
                chip_id=_chip_id(options["chip_id"] or ""),
                tcb=_tcb(options["tcb"] or "bootloader=0,tee=0,snp=0,microcode=0"),
            )
        )
    return found


def _chip_id(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError("--chip-id is not hexadecimal", "take it from `securetf evidence show`") from None


def _tcb(text: str) -> SnpTcb:
    try:
        parts = {name: int(value) for name, value in (part.split("=") for part in text.split(","))}
        if not set(parts) <= set(_TCB_NAMES) or not all(0 <= value <= 255 for value in parts.values()):
            raise ValueError(text)
        return SnpTcb(**parts)
    except (TypeError, ValueError):
        raise UsageError(
            f"--tcb {text!r} is no TCB", "write it as bootloader=4,tee=0,snp=24,microcode=219"
        ) from None


def _print(cache: Cache, now: datetime, as_json: bool) -> None:
    rows = [_row(one, now) for one in cache]
    if as_json:
        click.echo(json.dumps({"cache": str(cache.directory), "at": now.isoformat(), "artefacts": rows}))
        return
    click.echo(f"{cache.directory}: {len(rows)} artefacts; not authenticated, the verifier does that")
    for row in rows:
        if "error" in row:
            click.echo(f"damaged: {row['error']}")
            continue
        state = "valid" if row["valid"] else "NOT VALID"
        click.echo(f"{row['name']}\n  {state} from {row['from']} to {row['until']} (its {row['ends_with']})")
        click.echo(f"  fetched {row['fetched_at']} from {row['source']}")


def _row(one: Artefact | EndorsementError, now: datetime) -> dict[str, Any]:
    if isinstance(one, EndorsementError):
        return {"error": one.problem}
    return {
        "name": one.name,
        "source": one.source,
        "fetched_at": one.fetched_at.astimezone(UTC).isoformat(),
        "from": one.window.start.isoformat(),
        "until": one.window.end.isoformat(),
        "ends_with": one.window.ends_with,
        "valid": one.window.holds(now),
        "size_bytes": len(one.content),
    }


def _files_in(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.iterdir()) if path.is_file()]


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "name a file that exists") from None
    if len(content) > limit:
        raise UsageError(f"{path} has more than {limit} bytes", "name a file of endorsements or Evidence")
    return content
