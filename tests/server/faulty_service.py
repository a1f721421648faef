"""The whole service as a person starts it, but for the engine's device. As a module it is `python -m server`."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np

from tests.server.faulty_backend import Faults
from tests.server.faulty_engine import FAULTS

PNG = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))[
    1
].tobytes()
Reply = tuple[int, dict]


class FaultyService:
    """A supervisor with its front end and its engine, ready."""

    def __init__(self, models_dir: Path, *options: str) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="any"))  # a unix socket's path must be short
        self.faults = Faults(self.home / "faults.json")
        command = [sys.executable, "-m", "tests.server.faulty_service", "--port", "0", "--backend", "null"]
        command += ["--models-dir", str(models_dir), "--state-dir", str(self.home / "state"), *options]
        environment = {**os.environ, "TMPDIR": str(self.home), FAULTS: str(self.faults.path)}
        with (self.home / "log").open("w") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=subprocess.DEVNULL, env=environment)
        try:
            self.wait_for(lambda: self.said("listening"))
            self.port: int = self.said("listening")[0]["port"]
            self.wait_for(self.is_ready)
        except BaseException:
            self.close()
            raise

    def log(self) -> list[dict]:
        return [
            json.loads(line) for line in (self.home / "log").read_text().splitlines() if line.startswith("{")
        ]

    def said(self, message: str) -> list[dict]:
        return [line for line in self.log() if line["message"] == message]

    def wait_for(self, condition: Callable[[], object], seconds: float = 240.0) -> None:
        stop = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, (self.home / "log").read_text()
            assert time.monotonic() < stop, (
                f"not within {seconds} s; {(self.home / 'log').read_text()[-3000:]}"
            )
            time.sleep(0.02)

    def is_ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def get(self, path: str) -> Reply:
        status, body = self._request("GET", path)
        return status, json.loads(body)

    def metrics(self) -> str:
        return self._request("GET", "/metrics")[1].decode()

    def classify(self, deadline_ms: float = 5000, query: str = "") -> Reply:
        status, body = self._request("POST", f"/classify?deadline_ms={deadline_ms}{query}", PNG)
        return status, json.loads(body)

    def stream(self, deadline_ms: float = 5000) -> str:
        """The events of a request that asks for every stage in order."""
        return self._request("POST", f"/classify/stream?deadline_ms={deadline_ms}", PNG)[1].decode()

    def stage_states(self, model: str = "tiny") -> dict[str, str]:
        (card,) = self.get(f"/models/{model}")[1]["models"]
        return {stage["name"]: stage["state"] for stage in card["stages"]}

    def engine_pid(self) -> int:
        return self.get("/readyz")[1]["processes"]["engine"]

    def wait_for_another_engine(self, before: int) -> None:
        """Until the front end has an engine that is not that process."""
        self.wait_for(lambda: self.said("the engine is ready")[-1]["engine_pid"] != before)
        self.wait_for(self.is_ready)

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    def _request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = {} if body is None else {"Content-Type": "image/png"}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def pipelined(port: int, deadlines_ms: Iterable[float], model: str = "tiny") -> list[Reply]:
    """One request for each deadline over one connection, eight at a time sent before the first is answered."""
    fields = f"Host: x\r\nContent-Type: image/png\r\nContent-Length: {len(PNG)}\r\n\r\n"
    head = "POST /classify?model={}&deadline_ms={} HTTP/1.1\r\n" + fields
    requests = [head.format(model, deadline).encode() + PNG for deadline in deadlines_ms]
    replies: list[Reply] = []
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    with connection, connection.makefile("rb") as answers:
        while len(replies) < len(requests):
            few = requests[len(replies) : len(replies) + 8]
            connection.sendall(b"".join(few))
            replies += [_read_reply(answers) for _ in few]
    return replies


def _read_reply(answers) -> Reply:
    status = int(answers.readline().split()[1])
    length = 0
    while (line := answers.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return status, json.loads(answers.read(length))


def main() -> int:
    """`python -m server` with another engine."""
    from server import supervisor
    from server.__main__ import main as serve

    supervisor.ENGINE = "tests.server.faulty_engine"
    return serve()


if __name__ == "__main__":
    sys.exit(main())
