"""The gRPC project's interoperability cases, as client and as server, with the package grpcio alone.

`python grpc_interop.py server PORT`, `python grpc_interop.py client HOST PORT [CASE…]`: without a case, all.
After grpc/grpc, doc/interop-test-descriptions.md; messages and methods are those of its test.proto, with the
same numbers, so that each side also talks to the client or server of another language.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "grpc.testing.TestService"
REQUEST_SIZES, RESPONSE_SIZES = (27182, 8, 1828, 45904), (31415, 9, 2653, 58979)
LARGE_REQUEST, LARGE_RESPONSE = 271828, 314159
INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP \N{SMILING FACE WITH HORNS}\t\n"
START_S = 40  # the server may start later than the client
FIELDS: dict[str, dict[int, tuple[str, str]]] = {
    "Empty": {},
    "Payload": {1: ("int32", "type"), 2: ("bytes", "body")},
    "EchoStatus": {1: ("int32", "code"), 2: ("string", "message")},
    "SimpleRequest": {
        1: ("int32", "response_type"),
        2: ("int32", "response_size"),
        3: ("Payload", "payload"),
        7: ("EchoStatus", "response_status"),
    },
    "SimpleResponse": {1: ("Payload", "payload")},
    "StreamingInputCallRequest": {1: ("Payload", "payload")},
    "StreamingInputCallResponse": {1: ("int32", "aggregated_payload_size")},
    "ResponseParameters": {1: ("int32", "size"), 2: ("int32", "interval_us")},
    "StreamingOutputCallRequest": {
        1: ("int32", "response_type"),
        2: ("ResponseParameters*", "response_parameters"),
        3: ("Payload", "payload"),
        7: ("EchoStatus", "response_status"),
    },
    "StreamingOutputCallResponse": {1: ("Payload", "payload")},
}
METHODS = {  # request, response, and which of them are streams
    "EmptyCall": ("Empty", "Empty", False, False),
    "UnaryCall": ("SimpleRequest", "SimpleResponse", False, False),
    "StreamingOutputCall": ("StreamingOutputCallRequest", "StreamingOutputCallResponse", False, True),
    "StreamingInputCall": ("StreamingInputCallRequest", "StreamingInputCallResponse", True, False),
    "FullDuplexCall": ("StreamingOutputCallRequest", "StreamingOutputCallResponse", True, True),
    "UnimplementedCall": ("Empty", "Empty", False, False),
}


def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="interop.proto", package="grpc.testing", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for number, (kind, field) in fields.items():
            one = message.field.add(name=field, number=number, label=kinds.LABEL_OPTIONAL)
            if kind.endswith("*"):
                one.label = kinds.LABEL_REPEATED
            if kind[0].isupper():
                one.type, one.type_name = kinds.TYPE_MESSAGE, f".grpc.testing.{kind.removesuffix('*')}"
            else:
                one.type = getattr(kinds, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return {name: message_factory.GetMessageClass(find(f"grpc.testing.{name}")) for name in FIELDS}


MESSAGES = _messages()


def payload(size: int) -> Any:
    """Return a payload of zeros."""
    return MESSAGES["Payload"](body=bytes(size))


def _echo(context: grpc.ServicerContext) -> None:
    sent = dict(context.invocation_metadata())
    if INITIAL in sent:
        context.send_initial_metadata([(INITIAL, sent[INITIAL])])
    if TRAILING in sent:
        context.set_trailing_metadata([(TRAILING, sent[TRAILING])])


def _status(request: Any, context: grpc.ServicerContext) -> None:
    if request.response_status.code:
        code = next(one for one in grpc.StatusCode if one.value[0] == request.response_status.code)
        context.abort(code, request.response_status.message)


def _unary(request: Any, context: grpc.ServicerContext) -> Any:
    _echo(context)
    _status(request, context)
    return MESSAGES["SimpleResponse"](payload=payload(request.response_size))


def _output(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
    _status(request, context)
    for wanted in request.response_parameters:
        time.sleep(wanted.interval_us / 1e6)
        yield MESSAGES["StreamingOutputCallResponse"](payload=payload(wanted.size))


def _input(requests: Iterable[Any], context: grpc.ServicerContext) -> Any:  # noqa: ARG001  (grpc's signature)
    size = sum(len(one.payload.body) for one in requests)
    return MESSAGES["StreamingInputCallResponse"](aggregated_payload_size=size)


def _duplex(requests: Iterable[Any], context: grpc.ServicerContext) -> Iterator[Any]:
    _echo(context)
    for request in requests:
        yield from _output(request, context)


def serve(port: int) -> None:
    """Serve all methods but UnimplementedCall, until killed."""
    behaviours: dict[str, Callable[..., Any]] = {
        "EmptyCall": lambda request, _: request,
        "UnaryCall": _unary,
        "StreamingOutputCall": _output,
        "StreamingInputCall": _input,
        "FullDuplexCall": _duplex,
    }
    handlers = {}
    for name, behaviour in behaviours.items():
        request, response, streams_in, streams_out = METHODS[name]
        kind = f"{'stream' if streams_in else 'unary'}_{'stream' if streams_out else 'unary'}"
        handlers[name] = getattr(grpc, f"{kind}_rpc_method_handler")(
            behaviour, MESSAGES[request].FromString, MESSAGES[response].SerializeToString
        )
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    print("listening", flush=True)
    server.wait_for_termination()


class Client:
    """The cases; each raises AssertionError or grpc.RpcError when it does not pass."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def _method(self, name: str, service: str = SERVICE) -> Any:
        request, response, streams_in, streams_out = METHODS[name]
        kind = f"{'stream' if streams_in else 'unary'}_{'stream' if streams_out else 'unary'}"
        return getattr(self._channel, kind)(
            f"/{service}/{name}", MESSAGES[request].SerializeToString, MESSAGES[response].FromString
        )

    def empty_unary(self) -> None:
        assert self._method("EmptyCall")(MESSAGES["Empty"]()) == MESSAGES["Empty"]()

    def large_unary(self) -> None:
        request = MESSAGES["SimpleRequest"](response_size=LARGE_RESPONSE, payload=payload(LARGE_REQUEST))
        assert self._method("UnaryCall")(request).payload.body == bytes(LARGE_RESPONSE)

    def client_streaming(self) -> None:
        requests = [MESSAGES["StreamingInputCallRequest"](payload=payload(size)) for size in REQUEST_SIZES]
        found = self._method("StreamingInputCall")(iter(requests))
        assert found.aggregated_payload_size == sum(REQUEST_SIZES)

    def server_streaming(self) -> None:
        request = MESSAGES["StreamingOutputCallRequest"](
            response_parameters=[MESSAGES["ResponseParameters"](size=size) for size in RESPONSE_SIZES]
        )
        found = [len(one.payload.body) for one in self._method("StreamingOutputCall")(request)]
        assert found == list(RESPONSE_SIZES)

    def _duplex_request(self, size: int, response: int, interval_us: int = 0) -> Any:
        wanted = MESSAGES["ResponseParameters"](size=response, interval_us=interval_us)
        return MESSAGES["StreamingOutputCallRequest"](response_parameters=[wanted], payload=payload(size))

    def ping_pong(self) -> None:
        answered = threading.Semaphore(1)

        def requests() -> Iterator[Any]:
            for size, response in zip(REQUEST_SIZES, RESPONSE_SIZES, strict=True):
                assert answered.acquire(timeout=30), "no answer in 30 s"
                yield self._duplex_request(size, response)

        found = []
        for one in self._method("FullDuplexCall")(requests()):
            found.append(len(one.payload.body))
            answered.release()
        assert found == list(RESPONSE_SIZES)

    def empty_stream(self) -> None:
        assert not list(self._method("FullDuplexCall")(iter(())))

    def _fails(self, call: Callable[[], object], code: grpc.StatusCode, details: str | None = None) -> None:
        found: Any = None
        try:
            call()
        except grpc.RpcError as error:
            found = error
        assert found is not None, f"did not end with {code}"
        assert found.code() == code, found
        assert details is None or found.details() == details, found.details()

    def timeout_on_sleeping_server(self) -> None:
        request = iter([self._duplex_request(LARGE_REQUEST, 1, interval_us=2_000_000)])
        call = self._method("FullDuplexCall")(request, timeout=0.001)
        self._fails(lambda: list(call), grpc.StatusCode.DEADLINE_EXCEEDED)

    def cancel_after_begin(self) -> None:
        hold = threading.Event()
        call = self._method("StreamingInputCall").future(_held(hold, []))
        call.cancel()
        hold.set()
        assert call.code() == grpc.StatusCode.CANCELLED

    def cancel_after_first_response(self) -> None:
        hold = threading.Event()
        first = self._duplex_request(REQUEST_SIZES[0], RESPONSE_SIZES[0])
        call = self._method("FullDuplexCall")(_held(hold, [first]))
        assert len(next(call).payload.body) == RESPONSE_SIZES[0]
        call.cancel()
        hold.set()
        self._fails(lambda: next(call), grpc.StatusCode.CANCELLED)

    def _status(self, text: str) -> None:
        status = MESSAGES["EchoStatus"](code=2, message=text)
        unary = MESSAGES["SimpleRequest"](response_status=status)
        stream = MESSAGES["StreamingOutputCallRequest"](response_status=status)
        unknown = grpc.StatusCode.UNKNOWN
        self._fails(lambda: self._method("UnaryCall")(unary), unknown, text)
        self._fails(lambda: list(self._method("FullDuplexCall")(iter([stream]))), unknown, text)

    def status_code_and_message(self) -> None:
        self._status("test status message")

    def special_status_message(self) -> None:
        status = MESSAGES["EchoStatus"](code=2, message=SPECIAL)
        request = MESSAGES["SimpleRequest"](response_status=status)
        self._fails(lambda: self._method("UnaryCall")(request), grpc.StatusCode.UNKNOWN, SPECIAL)

    def custom_metadata(self) -> None:
        sent = [(INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\xab\xab")]
        request = MESSAGES["SimpleRequest"](response_size=LARGE_RESPONSE, payload=payload(LARGE_REQUEST))
        _, unary = self._method("UnaryCall").with_call(request, metadata=sent)
        stream = self._method("FullDuplexCall")(iter([self._duplex_request(1, 1)]), metadata=sent)
        assert len(list(stream)) == 1
        for call in (unary, stream):
            assert dict(call.initial_metadata())[INITIAL] == sent[0][1]
            assert dict(call.trailing_metadata())[TRAILING] == sent[1][1]

    def unimplemented_method(self) -> None:
        call = self._method("UnimplementedCall")
        self._fails(lambda: call(MESSAGES["Empty"]()), grpc.StatusCode.UNIMPLEMENTED)

    def unimplemented_service(self) -> None:
        call = self._method("UnimplementedCall", "grpc.testing.UnimplementedService")
        self._fails(lambda: call(MESSAGES["Empty"]()), grpc.StatusCode.UNIMPLEMENTED)


def _held(hold: threading.Event, requests: list[Any]) -> Iterator[Any]:
    yield from requests
    hold.wait(30)


CASES = [name for name in vars(Client) if not name.startswith("_")]


def run_client(host: str, port: int, cases: list[str]) -> int:
    """Run cases over one channel; print each with its result, and return how many did not pass."""
    failed = 0
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        grpc.channel_ready_future(channel).result(START_S)
        for case in cases:
            try:
                getattr(Client(channel), case)()
                print(case, "passed", flush=True)
            except (AssertionError, grpc.RpcError) as problem:
                failed += 1
                print(case, "FAILED", problem, flush=True)
    return failed


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(int(sys.argv[2]))
    else:
        raise SystemExit(run_client(sys.argv[2], int(sys.argv[3]), sys.argv[4:] or CASES))
