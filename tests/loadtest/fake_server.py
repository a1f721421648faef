"""A small real HTTP server that keeps the service's wire contract and can be told to misbehave.

The query parameter `behave` picks what a POST gets; see BEHAVIOURS. As a process it stands for `python -m server`:
`python fake_server.py PORT [BEHAVE]`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

LADDER = ("column1", "joined2", "full")
Writer = asyncio.StreamWriter


def answer(index: int, stage: str = "full") -> dict[str, object]:
    run = LADDER[: LADDER.index(stage) + 1]
    return {
        "index": index,
        "stages_run": list(run),
        "stage": {"name": stage, "depth": len(run)},
        "complete": stage == "full",
        "stop_reason": "deepest" if stage == "full" else "deadline",
        "elapsed_ms": 1.5,
        "queue_ms": 0.5,
        "compute_ms": 1.0,
    }


def response(status: int, body: bytes, extra: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    )
    return head.encode() + body


def plain(status: int, value: object, extra: str = "") -> bytes:
    return response(status, json.dumps(value).encode(), extra)


def events(index: int, *, final: bool = True) -> list[bytes]:
    parts = [
        f"id: {place}\nevent: refinement\ndata: "
        + json.dumps(answer(index, stage) | {"stage_only": {"index": index, "probability": 0.5}})
        + "\n\n"
        for place, stage in enumerate(LADDER, 1)
    ]
    if final:
        parts.append("event: final\ndata: " + json.dumps(answer(index)) + "\n\n")
    return [part.encode() for part in parts]


def chunked(parts: list[bytes], trailer: bytes = b"") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x;x=y\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n" + trailer + b"\r\n"


async def ok(writer: Writer, label: int) -> bool:
    writer.write(plain(200, answer(label)))
    return True


async def shallow(writer: Writer, label: int) -> bool:
    writer.write(plain(200, answer(label, "column1")))
    return True


async def late(writer: Writer, label: int) -> bool:
    await asyncio.sleep(0.12)
    return await ok(writer, label)


async def slow(writer: Writer, label: int) -> bool:
    await asyncio.sleep(0.03)
    return await ok(writer, label)


async def refuse(writer: Writer, _label: int) -> bool:
    writer.write(plain(503, {"error": "overload"}, "Retry-After: 1\r\n"))
    return True


async def unanswered(writer: Writer, _label: int) -> bool:
    writer.write(plain(504, {"error": "nothing by the deadline"}))
    return True


async def error(writer: Writer, _label: int) -> bool:
    writer.write(plain(500, {"error": "x"}))
    return True


async def silent(writer: Writer, _label: int) -> bool:
    await asyncio.sleep(30)
    return False


async def hang_up(_writer: Writer, _label: int) -> bool:
    return False


async def cut(writer: Writer, label: int) -> bool:
    writer.write(plain(200, answer(label))[:-5])
    return False


async def trickle(writer: Writer, label: int) -> bool:
    for byte in chunked(
        [json.dumps(answer(label)).encode()[:40], json.dumps(answer(label)).encode()[40:]], b"A: b\r\n"
    ):
        writer.write(bytes([byte]))
        await writer.drain()
        if byte in b"\r\n":
            await asyncio.sleep(0)
    return True


async def goodbye(writer: Writer, label: int) -> bool:
    writer.write(plain(200, answer(label), "Connection: close\r\n"))
    return False


async def until_close(writer: Writer, label: int) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(answer(label)).encode())
    return False


async def not_http(writer: Writer, _label: int) -> bool:
    writer.write(b"220 mail.example ESMTP\r\n\r\n")
    return True


async def not_an_answer(writer: Writer, _label: int) -> bool:
    writer.write(plain(200, {"hello": "world"}))
    return True


async def stream(writer: Writer, label: int) -> bool:
    writer.write(chunked(events(label)))
    return True


async def stream_without_end(writer: Writer, label: int) -> bool:
    writer.write(chunked(events(label, final=False)))
    return True


async def stream_error(writer: Writer, label: int) -> bool:
    writer.write(chunked([*events(label)[:1], b'event: error\ndata: {"error": "engine lost"}\n\n']))
    return True


Behaviour = Callable[[Writer, int], Awaitable[bool]]
BEHAVIOURS: dict[str, Behaviour] = {
    f.__name__: f
    for f in (
        *(
            ok,
            shallow,
            late,
            slow,
            refuse,
            unanswered,
            error,
            silent,
            hang_up,
            cut,
            trickle,
            goodbye,
            until_close,
        ),
        *(not_http, not_an_answer, stream, stream_without_end, stream_error),
    )
}


def get_body(path: str) -> object:
    pid = os.getpid()
    latency = [{"batch": 1, "p50_ms": 0.25, "p99_ms": 0.5}, {"batch": 4, "p50_ms": 0.75, "p99_ms": 1.0}]
    stages = [{"name": name, "latency": latency} for name in LADDER]
    tiny = {"name": "tiny", "version": "2", "state": "serving", "default": True, "stages": stages}
    older = tiny | {"version": "1", "default": False, "stages": []}
    damaged = {"name": "tiny", "version": "3", "state": "damaged", "default": False, "stages": []}
    pages = {
        "/readyz": {"ready": True, "processes": {"supervisor": pid, "engine": pid, "frontends": [pid]}},
        "/models": {"models": [older, tiny, damaged]},
        "/models/tiny": {"models": [older, tiny, damaged]},
        "/models/gone": {"models": [damaged]},
    }
    return pages.get(path)


class FakeServer:
    """Counts what it saw; labels are read from the image's last byte (see synthetic.py)."""

    def __init__(self, behave: str = "ok") -> None:
        self.behave = behave
        self.requests = 0
        self.connections = 0
        self.port = 0

    async def serve(self, port: int, started: Callable[[], None]) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", port)
        self.port = server.sockets[0].getsockname()[1]
        started()
        async with server:
            await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        try:
            while await self._request(reader, writer):
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: Writer) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split("\r\n")[0].split(" ")
        url = urlsplit(target)
        if method == "GET":
            body = get_body(url.path)
            writer.write(plain(200 if body else 404, body))
            return True
        length = next(
            int(x.split(":")[1]) for x in head.split("\r\n") if x.lower().startswith("content-length")
        )
        body_bytes = await reader.readexactly(length)
        self.requests += 1
        default = "stream" if url.path.endswith("/stream") else self.behave
        behave = parse_qs(url.query).get("behave", [default])[0].split(",")
        return await BEHAVIOURS[behave[self.requests % len(behave)]](writer, body_bytes[-1])


@contextmanager
def fake_server() -> Iterator[FakeServer]:
    """The server in a thread of this process."""
    fake, started = FakeServer(), threading.Event()
    stops: list[Callable[[], None]] = []

    async def main() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))
        serving = asyncio.create_task(fake.serve(0, started.set))
        await stop.wait()
        serving.cancel()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    started.wait(10)
    try:
        yield fake
    finally:
        stops[0]()
        thread.join(10)


if __name__ == "__main__":
    asyncio.run(FakeServer(*sys.argv[2:]).serve(int(sys.argv[1]), lambda: None))
