"""Buckets of S3-compatible services: their names, and from where endpoint and access key are taken.

Neither is an argument of a command, where every user of the machine could read it. The names of the variables
and of the file of credentials are those of Amazon's own tools.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from securetf.errors import UsageError

SCHEME = "s3://"
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()/-]*")
_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
_DIRECTORY = "/var/tmp"  # noqa: S108  (files without a name, or in a directory of a random name, mode 0700)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Where a volume's objects lie, and how they are reached; read by the native module.

    access_key: its name, its secret, and the token of a temporary one. authorities: PEM, for https.
    deadline_s: how long one call tries. directory: of this machine, for cache and uploads.
    """

    endpoint: str
    region: str
    bucket: str
    prefix: str
    access_key: tuple[str, str, str | None] = field(repr=False)
    authorities: bytes = field(repr=False)
    deadline_s: float
    directory: str
    cache_bytes: int

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}"

    def check_protection(self, protection: str) -> None:
        """Raise UsageError if a volume with this protection cannot lie in a bucket."""
        if protection != "encrypted":
            raise UsageError(
                f"{self} is a bucket, in which a volume that is {protection} cannot lie",
                "use a directory for it, or make it encrypted",
            )


Place: TypeAlias = Path | Bucket


def bucket(name: str, environment: Mapping[str, str]) -> Bucket:
    """Return the bucket that `s3://BUCKET/PREFIX` names, reached as the environment says. Nothing is sent.

    Raises:
        UsageError: no such name, or a variable or a file that cannot be used.
    """
    if not name.startswith(SCHEME):
        raise UsageError(f"{name} is not the name of a bucket", "write it as s3://BUCKET/PREFIX")
    where, _, prefix = name.removeprefix(SCHEME).partition("/")
    prefix = prefix.strip("/")
    plain = not prefix or (_PREFIX.fullmatch(prefix) and not {"", ".", ".."} & set(prefix.split("/")))
    if not _NAME.fullmatch(where) or not plain:
        raise UsageError(
            f"{name} is not s3://BUCKET/PREFIX",
            "BUCKET has 3 to 63 lower-case letters, digits, dots and hyphens; PREFIX plain names",
        )
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
    endpoint = _endpoint(environment) or f"https://s3.{region}.amazonaws.com"
    return Bucket(
        endpoint=endpoint,
        region=region,
        bucket=where,
        prefix=prefix,
        access_key=_access_key(environment),
        authorities=_authorities(environment) if endpoint.startswith("https:") else b"",
        deadline_s=_number(environment, "SECURETF_BUCKET_DEADLINE_S", 30.0),
        directory=environment.get("SECURETF_BUCKET_DIRECTORY") or environment.get("TMPDIR") or _DIRECTORY,
        cache_bytes=int(_number(environment, "SECURETF_BUCKET_CACHE_MIB", 256)) << 20,
    )


def _endpoint(environment: Mapping[str, str]) -> str | None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if not (found := environment.get(name)):
            continue
        try:
            parts = urlsplit(found)
            fits = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or 1) > 0
        except ValueError:
            fits = False
        if not fits or "@" in found or "?" in found or "#" in found:
            raise UsageError(  # without what it is: a password may stand in it
                f"{name} is not the address of a service", "set it to https://HOST or https://HOST:PORT"
            )
        return found
    return None


def _access_key(environment: Mapping[str, str]) -> tuple[str, str, str | None]:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    identity, secret, token = (environment.get(name) for name in names)
    if identity and secret:
        return identity, secret, token or None
    import configparser  # noqa: PLC0415  (where there is a file alone)

    home = environment.get("HOME", "/root")
    path = Path(environment.get("AWS_SHARED_CREDENTIALS_FILE") or Path(home, ".aws", "credentials"))
    profile = environment.get("AWS_PROFILE") or "default"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
        found = parser[profile]
        return (
            found["aws_access_key_id"],
            found["aws_secret_access_key"],
            found.get("aws_session_token") or None,
        )
    except (OSError, configparser.Error, KeyError, UnicodeDecodeError):
        raise UsageError(  # without its cause, which may quote a line of the file
            f"there is no access key for the bucket: neither in the environment nor as [{profile}] in {path}",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SHARED_CREDENTIALS_FILE and AWS_PROFILE",
        ) from None


def _authorities(environment: Mapping[str, str]) -> bytes:
    import ssl  # noqa: PLC0415  (for https alone)

    path = environment.get("AWS_CA_BUNDLE") or ssl.get_default_verify_paths().cafile or _AUTHORITIES
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(
            f"the certificate authorities of the bucket's service cannot be read: {error}",
            "install ca-certificates, or name a PEM file in AWS_CA_BUNDLE",
        ) from error


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,6}([.][0-9]{1,3})?", text) or float(text) == 0:
        raise UsageError(f"{name} is {text!r}", "set it to a positive number, or unset it")
    return float(text)
