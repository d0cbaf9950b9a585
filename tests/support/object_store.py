"""An S3 server of others (moto's) as a process, its objects for an attacker's hand, and a way to lose it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import boto3

KEY, SECRET = "AKIAOBJECTSTORETEST", "a secret that no output may have"
BUCKET = "volumes"


class ObjectStore:
    """The server; `objects` are the volume's keys without their prefix."""

    def __init__(self, scratch: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._scratch = scratch

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        log = (self._scratch / "moto.log").open("wb")
        self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        log.close()
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                break
            time.sleep(0.1)
        self.client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )
        self.client.create_bucket(Bucket=BUCKET)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resume()
        self._process.kill()
        self._process.wait()

    def environment(self, **more: str) -> dict[str, str]:
        """What `securetf` needs to reach the server."""
        return {
            **os.environ,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "SECURETF_BUCKET_DEADLINE_S": "20",
            **more,
        }

    def keys(self, prefix: str) -> list[str]:
        """The keys that begin so, in order."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return sorted(one["Key"] for page in pages for one in page.get("Contents", []))

    def get(self, key: str) -> bytes:
        """The bytes of an object."""
        return bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def put(self, key: str, data: bytes) -> None:
        """Replace an object."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def delete(self, key: str) -> None:
        """Remove an object."""
        self.client.delete_object(Bucket=BUCKET, Key=key)

    def pause(self) -> None:
        """From now on connections are made and nothing is answered, as where a machine is lost."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Answer again."""
        self._process.send_signal(signal.SIGCONT)

    def die(self) -> None:
        """Refuse connections from now on."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def object_store(scratch: Path) -> Iterator[ObjectStore]:
    """Run a server with an empty bucket."""
    with ObjectStore(scratch) as server:
        yield server
