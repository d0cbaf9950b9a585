"""Versions come and go while clients ask; overload and the end of the service lose nothing that was taken."""

import json
import shutil
import signal
import socket
import threading

import grpc
import numpy as np
import pytest

from securetf.serving.protocols import message
from support.service import PATIENCE_S, direct, put, serving

X = np.ones((1, 4), np.float32)
LONG = 400_000  # rounds of the model spin: a few seconds, for what has to happen while one is computed
ANSWERS = {version: direct(f"small{version}", x=X)["y"].tobytes() for version in (1, 2)}


def ask(service) -> bytes:
    """Return the bytes of one prediction; anything but 200 fails."""
    status, found = service.json("POST", "/v1/models/small:predict", {"instances": X.tolist()})
    assert status == 200, found
    return np.array(found["predictions"], np.float32).tobytes()


@pytest.fixture
def repository(tmp_path):
    put(tmp_path / "models", "small", 1, "small1")
    return tmp_path / "models"


def test_new_version_when_it_appears_under_load_is_swapped_in_without_losing_a_request(repository) -> None:
    with serving(repository) as service:
        answers: list[bytes] = []
        failures: list[BaseException] = []
        stop = threading.Event()

        def client() -> None:
            try:
                while not stop.is_set():
                    answers.append(ask(service))
            except BaseException as error:  # noqa: BLE001  (shown below)
                failures.append(error)

        threads = [threading.Thread(target=client) for _ in range(4)]
        for thread in threads:
            thread.start()
        service.until(lambda: len(answers) > 50, "answers of version 1")
        put(repository, "small", 2, "small2")
        service.until(lambda: answers[-1] == ANSWERS[2], "answers of version 2")
        before = len(answers)
        service.until(lambda: len(answers) > before + 50, "more answers of version 2")
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures
        assert set(answers) == {ANSWERS[1], ANSWERS[2]}
        service.until(lambda: service.states("small")[1][0] == "END", "version 1 drained")


def test_version_when_it_is_half_written_or_no_model_is_not_served_and_the_old_one_is(repository) -> None:
    with serving(repository) as service:
        whole = (put(repository.parent / "other", "small", 2, "small2") / "model.tflite").read_bytes()
        half = repository / "small" / "2"
        half.mkdir()
        (half / "model.tflite").write_bytes(whole[:700])
        service.until(lambda: service.states("small").get(2, ("", ""))[0] == "END", "version 2 is refused")
        assert "not a model that LiteRT can load" in service.states("small")[2][1]
        assert "model_refused: model small, version 2, problem model.tflite is not" in service.log.read_text()
        assert ask(service) == ANSWERS[1]
        (half / "model.tflite").write_bytes(whole)
        service.until(lambda: ask(service) == ANSWERS[2], "version 2, now whole")


def test_lower_version_when_the_volume_rolls_back_is_refused_and_the_newest_stays(repository) -> None:
    put(repository, "small", 2, "small2")
    with serving(repository) as service:
        assert ask(service) == ANSWERS[2]
        shutil.rmtree(repository / "small" / "2")
        service.until(lambda: "rolled back" in service.states("small")[2][1], "said of version 2")
        assert service.states("small")[1][1].startswith("lower than the highest version ever served")
        assert ask(service) == ANSWERS[2]


def test_lower_version_when_the_operator_allows_it_is_served(repository) -> None:
    put(repository, "small", 2, "small2")
    with serving(repository, "--allow-lower-versions") as service:
        shutil.rmtree(repository / "small" / "2")
        service.until(lambda: ask(service) == ANSWERS[1], "version 1")


def test_volume_when_it_cannot_be_read_keeps_the_old_version_and_says_so(repository) -> None:
    with serving(repository) as service:
        repository.rename(repository.with_name("gone"))
        metric = b"securetf_serving_repository_readable 0\n"
        service.until(lambda: metric in service.ask("GET", "/metrics")[2], "the metric")
        assert "cannot be read" in service.states("small")[1][1]
        assert ask(service) == ANSWERS[1]
        assert service.ask("GET", "/v2/health/ready")[0] == 200


def test_two_versions_when_both_are_kept_are_told_apart_by_number_and_label(repository) -> None:
    put(repository, "small", 2, "small2")
    options = ("--versions", "2", "--label", "small:stable=1", "--allow-reload-config")
    with serving(repository, *options) as service:
        body = json.dumps({"instances": X.tolist()}).encode()

        def at(path: str) -> bytes:
            found = json.loads(service.ask("POST", f"/v1/models/small{path}:predict", body)[2])
            return np.array(found["predictions"], np.float32).tobytes()

        def served() -> list[int]:
            return [number for number, (state, _) in service.states("small").items() if state == "AVAILABLE"]

        service.until(lambda: len(served()) == 2, "both versions: it is ready with one of them")
        found = [at(path) for path in ("", "/versions/1", "/versions/2", "/labels/stable")]
        assert found == [ANSWERS[2], ANSWERS[1], ANSWERS[2], ANSWERS[1]]
        request = message("tfs.ReloadConfigRequest")()
        request.config.model_config_list.config.add(name="small").version_labels["stable"] = 2
        with grpc.insecure_channel(service.grpc) as channel:
            call = channel.unary_unary("/tensorflow.serving.ModelService/HandleReloadConfigRequest")
            call(request.SerializeToString(), timeout=PATIENCE_S)
        assert at("/labels/stable") == ANSWERS[2]


def taken(service) -> bool:
    """Return whether a request is with the service."""
    return b"inflight_bytes 0\n" not in service.ask("GET", "/metrics")[2]


def spin(service, rounds: int, timeout: float = PATIENCE_S) -> grpc.Future:
    """Start a request that computes for a while; the caller keeps the channel."""
    channel = grpc.insecure_channel(service.grpc)
    request = message("oip.ModelInferRequest")(model_name="spin")
    request.inputs.add(name="rounds", datatype="INT32", shape=[1]).contents.int_contents.append(rounds)
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    future = call.future(request.SerializeToString(), timeout=timeout, wait_for_ready=True)
    future.channel = channel
    return future


def test_requests_when_the_queue_is_full_are_shed_with_the_right_status(repository) -> None:
    put(repository, "spin", 1)
    with serving(repository, "--workers", "1", "--queue", "1") as service:

        def metric(text: bytes) -> bool:
            return text in service.ask("GET", "/metrics")[2]

        running = [spin(service, LONG)]
        service.until(lambda: taken(service), "the first is taken")
        service.until(lambda: metric(b'queue_length{model="spin",version="1"} 0'), "the first is computed")
        running.append(spin(service, 1))
        service.until(
            lambda: b'queue_length{model="spin",version="1"} 1' in service.ask("GET", "/metrics")[2], "full"
        )
        status, headers, content = service.ask("POST", "/v1/models/spin:predict", {"inputs": [1]})
        assert (status, headers["retry-after"], b"wait already" in content) == (503, "1", True)
        refused = spin(service, 1)
        assert refused.exception(PATIENCE_S).code().name == "RESOURCE_EXHAUSTED"
        assert ask(service) == ANSWERS[1]  # another model is not disturbed
        assert all(one.result(PATIENCE_S) for one in running)


def late_ones_cost_nothing(repository, rounds: int) -> bool:
    """Return whether the first was still being computed when the deadline of those behind it passed."""
    with serving(repository, "--workers", "1") as service:
        first = spin(service, rounds)  # on a channel of its own: the others could be there before it
        service.until(lambda: taken(service), "it was taken")
        late = [spin(service, 10_000_000, timeout=0.2) for _ in range(3)]
        assert {one.exception(PATIENCE_S).code().name for one in late} == {"DEADLINE_EXCEEDED"}
        if first.done():  # then one of the others may have had its turn in time
            service.process.kill()
            return False
        assert first.result(PATIENCE_S)
        assert spin(service, 1).result(PATIENCE_S)  # would wait for minutes if the late ones were computed
        return True


def test_deadline_when_it_passes_in_the_queue_costs_no_computing(repository) -> None:
    put(repository, "spin", 1)
    assert any(late_ones_cost_nothing(repository, rounds) for rounds in (LONG // 4, LONG, 4 * LONG))


def given_up_costs_nothing(repository, rounds: int) -> bool:
    """Return whether the first was still being computed when the client behind it had gone."""
    with serving(repository, "--workers", "1") as service:

        def metric(text: bytes) -> bool:
            return text in service.ask("GET", "/metrics")[2]

        first = spin(service, rounds)
        service.until(lambda: taken(service), "it was taken")
        service.until(lambda: metric(b'queue_length{model="spin",version="1"} 0'), "it is computed")
        host, port = service.rest.split(":")
        with socket.create_connection((host, int(port)), PATIENCE_S) as client:
            body = b'{"inputs": [2000000000]}'
            head = b"POST /v1/models/spin:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(
                body
            )
            client.sendall(head + body)
            service.until(
                lambda: metric(b'queue_length{model="spin",version="1"} 1') or first.done(), "it waits"
            )
        service.until(lambda: metric(b'model="spin",status="499"} 1') or first.done(), "it has gone")
        if first.done():  # then it may have had its turn
            service.process.kill()
            return False
        assert first.result(PATIENCE_S)
        assert spin(service, 1).result(PATIENCE_S)  # would wait for hours if the other were computed
        return True


def test_client_over_http_when_it_gives_up_in_the_queue_costs_no_computing(repository) -> None:
    put(repository, "spin", 1)
    assert any(given_up_costs_nothing(repository, rounds) for rounds in (LONG // 4, LONG, 4 * LONG))


def test_service_when_asked_to_end_answers_what_it_took(repository) -> None:
    put(repository, "spin", 1)
    with serving(repository) as service:
        running = spin(service, LONG // 4)
        service.until(lambda: taken(service), "it was taken")
        service.process.send_signal(signal.SIGTERM)
        assert running.result(PATIENCE_S)
        assert service.process.wait(PATIENCE_S) == 0
