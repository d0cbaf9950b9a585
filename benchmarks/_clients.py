"""Clients of a service in a process of their own: `python _clients.py HOST:PORT MODEL INPUT CLIENTS SECONDS
SIZE`.

Each asks over one connection as fast as it gets answers, with one image of SIZE x SIZE as a binary tensor,
and reads the answers without looking into them. Prints the number answered, the others by status, and the
latencies' quantiles.
"""

import asyncio
import json
import sys
import time

import numpy as np


def request(model: str, name: str, size: int) -> bytes:
    """Return the bytes of one request."""
    tensor = np.random.default_rng(0).random((1, size, size, 3), np.float32).tobytes()
    described = {"name": name, "shape": [1, size, size, 3], "datatype": "FP32"}
    described["parameters"] = {"binary_data_size": len(tensor)}
    head = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
    lines = [
        f"POST /v2/models/{model}/infer HTTP/1.1",
        "Host: service",
        f"Inference-Header-Content-Length: {len(head)}",
        f"Content-Length: {len(head) + len(tensor)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + head + tensor


async def client(address: str, message: bytes, until: float, found: list[tuple[int, float]]) -> None:
    """Ask until the time is over."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    while (begin := time.monotonic()) < until:
        writer.write(message)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(one[15:]) for one in head.lower().split(b"\r\n") if one.startswith(b"content-length:")
        )
        await reader.readexactly(length)
        found.append((int(head[9:12]), time.monotonic() - begin))
    writer.close()


async def main() -> None:
    address, model, name, clients, seconds, size = sys.argv[1:]
    message = request(model, name, int(size))
    found: list[tuple[int, float]] = []
    begin = time.monotonic()
    until = begin + float(seconds)
    await asyncio.gather(*(client(address, message, until, found) for _ in range(int(clients))))
    elapsed = time.monotonic() - begin
    times = sorted(taken for status, taken in found if status == 200)
    others: dict[int, int] = {}
    for status, _ in found:
        if status != 200:
            others[status] = others.get(status, 0) + 1
    quantiles = {f"p{one}_ms": times[min(len(times) - 1, len(times) * one // 100)] * 1000 for one in (50, 99)}
    print(json.dumps({"answered": len(times), "per_s": len(times) / elapsed, "others": others, **quantiles}))


if __name__ == "__main__":
    asyncio.run(main())
