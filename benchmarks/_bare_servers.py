"""The servers of `securetf serve` without it: uvicorn on uvloop, and grpc.aio, each with a handler that takes
a request's bytes and answers a few of its own. Memory is kept as the service keeps it.

`python _bare_servers.py HTTP_PORT`: prints the port of gRPC, then serves until it is ended. What a request to
them takes is the client's, the kernel's and the libraries' part of a request to the service.
"""

import sys

import grpc
import uvicorn
import uvloop

from securetf.serving import memory

ANSWER = bytes(300)  # about as long as the service's
_GRPC = [  # as the service has them
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.http2.max_frame_size", 1 << 20),
    ("grpc.http2.lookahead_bytes", 4 << 20),
    ("grpc.http2.bdp_probe", 0),
]


async def application(_: dict, receive, send) -> None:
    """Read the body and answer."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-length", str(len(ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


class Echo(grpc.GenericRpcHandler):
    """Answers every method."""

    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        async def behaviour(_: bytes, __: grpc.aio.ServicerContext) -> bytes:
            return ANSWER

        return grpc.unary_unary_rpc_method_handler(behaviour)


async def main() -> None:
    server = grpc.aio.server(handlers=[Echo()], options=_GRPC)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    config = uvicorn.Config(
        application, port=int(sys.argv[1]), http="httptools", ws="none", lifespan="off", log_config=None
    )
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    memory.keep_freed()
    uvloop.run(main())
