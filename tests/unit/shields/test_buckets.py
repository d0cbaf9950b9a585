"""Buckets: what names and variables are taken and refused; neither secret nor password is ever shown."""

from pathlib import Path

import pytest

from securetf.errors import UsageError
from securetf.shields.buckets import Bucket, bucket

KEY = {"AWS_ACCESS_KEY_ID": "AKIAX", "AWS_SECRET_ACCESS_KEY": "the secret", "AWS_SESSION_TOKEN": "the token"}
LOCAL = {**KEY, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}


def test_bucket_when_shown_shows_neither_secret_nor_token() -> None:
    found = bucket("s3://sets/team/digits/", LOCAL)
    assert found.access_key == ("AKIAX", "the secret", "the token")
    assert str(found) == "s3://sets/team/digits"
    assert "secret" not in repr(found)
    assert "token" not in repr(found)


def test_bucket_when_little_is_set_has_the_defaults_that_are_documented() -> None:
    found = bucket("s3://sets", {**LOCAL, "AWS_DEFAULT_REGION": "eu-1"})
    assert (found.prefix, found.region, found.deadline_s) == ("", "eu-1", 30.0)
    assert (found.directory, found.cache_bytes) == ("/var/tmp", 256 << 20)  # noqa: S108
    other = bucket("s3://sets", {**LOCAL, "AWS_ENDPOINT_URL_S3": "http://[::1]:9/under", "TMPDIR": "/t"})
    assert (other.endpoint, other.directory) == ("http://[::1]:9/under", "/t")


@pytest.mark.parametrize(
    "endpoint",
    ["ftp://h", "https://", "h:443", "https://u:passphrase@h", "https://h?x=passphrase", "http://h:99999"],
)
def test_endpoint_when_it_is_none_or_has_a_password_is_refused_without_being_shown(endpoint: str) -> None:
    with pytest.raises(UsageError) as refused:
        bucket("s3://sets", {**KEY, "AWS_ENDPOINT_URL": endpoint})
    assert "AWS_ENDPOINT_URL is not the address of a service" in refused.value.problem
    assert "passphrase" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SECURETF_BUCKET_DEADLINE_S", "0"),
        ("SECURETF_BUCKET_DEADLINE_S", "inf"),
        ("SECURETF_BUCKET_CACHE_MIB", "-1"),
        ("SECURETF_BUCKET_CACHE_MIB", "1e9"),
    ],
)
def test_number_when_it_is_none_is_refused_by_the_name_of_its_variable(variable: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"{variable} is '{value}'"):
        bucket("s3://sets", {**LOCAL, variable: value})


def test_file_of_credentials_when_broken_is_refused_without_a_line_of_it(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = A\nthe secret stands alone\n")
    variables = {"AWS_ENDPOINT_URL": "http://h", "AWS_SHARED_CREDENTIALS_FILE": str(file)}
    with pytest.raises(UsageError) as refused:
        bucket("s3://sets", variables)
    assert f"[default] in {file}" in refused.value.problem
    assert "stands alone" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


@pytest.mark.parametrize(
    "name", ["s3://", "s3://UP/x", "s3://ab", "s3://sets/../x", "s3://sets/a//b", "s3://sets/a?b"]
)
def test_name_when_it_is_none_of_a_bucket_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not s3://BUCKET/PREFIX"):
        bucket(name, LOCAL)


def test_volume_when_it_is_not_encrypted_cannot_lie_in_a_bucket() -> None:
    found: Bucket = bucket("s3://sets/x", LOCAL)
    found.check_protection("encrypted")
    with pytest.raises(UsageError, match="s3://sets/x is a bucket, in which a volume that is authenticated"):
        found.check_protection("authenticated")
