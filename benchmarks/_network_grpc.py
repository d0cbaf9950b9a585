"""Unary gRPC calls for `network.py`: a server that answers what it gets, a client that takes times."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import grpc

METHOD = "/securetf.Benchmark/Echo"
LIMIT = [("grpc.max_receive_message_length", 4 << 20), ("grpc.max_send_message_length", 4 << 20)]


class _Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if handler_call_details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda message, _: message)


class GrpcServer:
    """A server on a free port of loopback, in this process, until the end of the block."""

    def __enter__(self) -> Self:
        self._server = grpc.server(ThreadPoolExecutor(max_workers=2), handlers=[_Echo()], options=LIMIT)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(None).wait()


def call(port: int, size: int, count: int) -> float:
    """Return the median microseconds of `count` calls with `size` bytes each way, on one warm connection."""
    message = bytes(size)
    micros: list[float] = []
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=LIMIT) as channel:
        echo = channel.unary_unary(METHOD)
        for _ in range(max(3, count // 10)):
            echo(message, wait_for_ready=True, timeout=30)
        for _ in range(count):
            begin = time.perf_counter()
            if echo(message, timeout=30) != message:
                raise RuntimeError("the echo is not what was sent")
            micros.append((time.perf_counter() - begin) * 1e6)
    return statistics.median(micros)
