"""A served volume that follows its writer: new versions under load, roll-back by the host, lower versions."""

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

import securetf
from support.hosts import Hosts
from support.service import direct
from support.shielded_service import Service, model

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces"),
]
X = np.array([[0.25, -1.5, 3.0, 7.75]], np.float32)
BODY = json.dumps({"instances": X.tolist()}).encode()
ANSWERS = {number: direct(f"small{number}", x=X)["y"].tobytes() for number in (1, 2)}


class Followed(Service):
    """The models are written by the workload `publisher`, out of what the owner packs into `new`."""

    def __init__(self, directory: Path, hosts: Hosts) -> None:
        super().__init__(directory, hosts)
        source = f"{self.job.base}/in"
        # A copy beside it and a rename: no commit ever shows a part of a version.
        script = f"cd {source} && for v in */*; do mkdir -p {self.models}/${{v%/*}} && " + (
            f"cp -r $v {self.models}/.next && mv -T {self.models}/.next {self.models}/$v; done"
        )
        script += f"; if [ -e remove ]; then rm -r {self.models}/$(cat remove); fi"
        self.create(
            '[volumes.models]\nwriter = "publisher"\nfreshness = "follow"\n[volumes.new]\n'
            f"[workloads.publisher]\ncommand = {json.dumps(['/bin/sh', '-ec', script])}\n"
            f'volumes = {{ new = "{source}:ro", models = "{self.models}:rw" }}\n',
            *("--poll", "0.5"),
        )
        self.publish({"small/3/model.tflite": model("small1")})
        self.start()

    def publish(self, files: dict[str, bytes], store: Path | None = None) -> None:
        """Have the publisher commit these files to the models. store: where the host shows it the volume."""
        self.job.pack("new", files)
        command = [*self.command("publisher"), "--volume", f"models={store or self.store}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def store(self) -> Path:
        return self.job.volumes / "models"

    def until(self, promise: Callable[[], object], what: str) -> None:
        limit = time.monotonic() + 90
        while not promise():
            assert self.run.process.poll() is None, self.run.said
            assert time.monotonic() < limit, f"never: {what}\n{self.run.said}"
            time.sleep(0.1)


class Customer:
    """Asks over one attested connection, and keeps each answer."""

    def __init__(self, service: Followed) -> None:
        self.service = service
        self.connection = securetf.connect(service.rest, policy=service.policy)
        self.answers: list[bytes] = []
        self.failures: list[str] = []

    def ask(self) -> bytes:
        response: httpx.Response = self.connection.http_client.post(
            f"{self.service.rest}/v1/models/small:predict",
            content=BODY,
            headers={"content-type": "application/json"},
            timeout=60,
        )
        if response.status_code != 200:
            self.failures.append(response.text)
        found = np.array(response.json()["predictions"], np.float32).tobytes()
        self.answers.append(found)
        return found

    def states(self) -> dict[int, tuple[str, str]]:
        document = self.connection.http_client.get(f"{self.service.rest}/v1/models/small").json()
        found = document["model_version_status"]
        return {int(one["version"]): (one["state"], one["status"]["error_message"]) for one in found}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    with Hosts(1) as hosts:
        one = Followed(tmp_path_factory.mktemp("followed"), hosts)
        try:
            one.ready()
            unpinned = [line for line in one.policy.read_text().splitlines() if "roots" not in line]
            one.policy.write_text("\n".join(unpinned).replace("[volumes.models]", "") + "\n")
            yield one
        finally:
            one.stop()


def test_volume_when_a_workload_commits_a_version_under_load_is_followed_and_no_request_is_lost(
    service: Followed,
) -> None:
    customers = [Customer(service) for _ in range(3)]
    stop = threading.Event()
    broken: list[BaseException] = []

    def load(customer: Customer) -> None:
        try:
            while not stop.is_set():
                customer.ask()
        except BaseException as error:  # noqa: BLE001  (shown below)
            broken.append(error)

    threads = [threading.Thread(target=load, args=(one,)) for one in customers]
    for thread in threads:
        thread.start()
    try:
        service.until(lambda: all(len(one.answers) > 20 for one in customers), "answers of version 3")
        service.publish({"small/4/model.tflite": model("small2")})
        service.until(lambda: all(one.answers[-1] == ANSWERS[2] for one in customers), "version 4")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not broken
    assert not any(one.failures for one in customers)
    for one in customers:
        assert set(one.answers) == {ANSWERS[1], ANSWERS[2]}
        assert one.answers == sorted(one.answers, key=lambda answer: answer == ANSWERS[2]), "never back"
    assert "volume models moved to sequence" in service.run.said


def test_volume_when_the_host_puts_back_the_older_directory_is_refused_and_the_version_stays_served(
    service: Followed, tmp_path: Path
) -> None:
    customer = Customer(service)
    assert customer.ask() == ANSWERS[2]
    writers = tmp_path / "writers"
    service.store.rename(writers)
    shutil.copytree(writers, service.store)  # what the host will show to the service from now on
    service.publish({"small/5/model.tflite": model("small1")}, store=writers)
    refused = "volume models: [STF-2011] the anchor stands at sequence"
    service.until(lambda: refused in service.run.said, refused)
    assert "stays mounted, trying again" in service.run.said
    for _ in range(20):
        assert customer.ask() == ANSWERS[2]
    assert customer.states()[4][0] == "AVAILABLE"
    shutil.rmtree(service.store)
    writers.rename(service.store)
    service.until(lambda: customer.ask() == ANSWERS[1], "version 5, once the host shows it")
    assert not customer.failures


def test_version_when_it_is_lower_than_the_served_one_is_refused_and_the_served_one_stays(
    service: Followed,
) -> None:
    customer = Customer(service)
    served = max(number for number, state in customer.states().items() if state[0] == "AVAILABLE")
    answer = customer.ask()
    service.publish({"small/1/model.tflite": model("small2"), "remove": f"small/{served}".encode()})
    lower = "lower than the highest version ever served: refused as a rollback"
    service.until(lambda: customer.states().get(1, ("", ""))[1].startswith(lower), lower)
    assert customer.states()[served] == (
        "AVAILABLE",
        "its directory has gone or was rolled back: this version stays served",
    )
    assert customer.ask() == answer
    assert not customer.failures
