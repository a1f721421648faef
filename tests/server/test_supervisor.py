"""The supervisor with real children: the engine, the front ends, the port they share."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from server.__main__ import main
from server.app import inherited
from server.child import ENVIRONMENT_KEY, ChildContext
from server.pulse import Hang
from server.settings import Settings
from server.supervisor import FRONT_END, Child, RuntimeFolder, Supervisor, cores_of, listen, reason_of
from tests.models import publish_tiny_model

PNG = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))[
    1
].tobytes()


class Service:
    """`python -m server` as a person starts it, on a free port, in a world of temporary folders."""

    def __init__(self, tmp_path: Path, *options: str) -> None:
        self.out = tmp_path / "out"
        self.err = tmp_path / "err"
        self.temporary = tmp_path / "temporary"
        self.temporary.mkdir(exist_ok=True)
        # A unix socket's path may have 107 characters, and pytest's folders are long.
        self.tmpdir = Path(tempfile.mkdtemp(prefix="any"))
        arguments = [
            "--port",
            "0",
            "--models-dir",
            str(tmp_path / "models"),
            "--state-dir",
            str(tmp_path / "state"),
        ]
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server", *arguments, *options],
                stdout=out,
                stderr=err,
                env={**os.environ, "TMPDIR": str(self.tmpdir)},
            )
        self.port = 0

    def log(self) -> list[dict]:
        return [json.loads(line) for line in self.err.read_text().splitlines() if line.startswith("{")]

    def wait_for(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        stop = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < stop, f"not within {seconds} s; {self.err.read_text()[-3000:]}"
            time.sleep(0.02)

    def ready(self) -> Service:
        self.wait_for(lambda: "Anytime is ready" in self.out.read_text())
        self.port = next(line["port"] for line in self.log() if line["message"] == "listening")
        return self

    def get(self, path: str) -> tuple[int, dict]:
        return self.request("GET", path)

    def classify(self, deadline_ms: float = 5000) -> tuple[int, dict]:
        return self.request(
            "POST", f"/classify?deadline_ms={deadline_ms}", PNG, {"Content-Type": "image/png"}
        )

    def request(self, method: str, path: str, body: bytes | None = None, headers: dict | None = None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def processes(self) -> dict:
        (folder,) = self.tmpdir.glob("anytime-*")
        return json.loads((folder / "processes.json").read_text())

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.tmpdir, ignore_errors=True)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def start(*options: str) -> Service:
        services.append(Service(tmp_path, *options))
        return services[-1]

    yield start
    for service in services:
        service.end()


@pytest.fixture
def tiny(tmp_path: Path):
    return publish_tiny_model(tmp_path / "models")


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_it_serves_and_ends_cleanly_leaving_no_folder(serve, tiny):
    service = serve().ready()
    (folder,) = service.tmpdir.glob("anytime-*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    status, answer = service.classify()
    assert (status, answer["model"]) == (200, "tiny")
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(10) == 0
    # Neither the folder nor the session file that ONNX Runtime's telemetry keeps.
    assert list(service.tmpdir.iterdir()) == []
    assert "ready on http://127.0.0.1:" in service.out.read_text()


def test_a_killed_engine_leaves_no_request_hanging_and_is_back_in_three_seconds(serve, tmp_path):
    publish_tiny_model(tmp_path / "models", hidden=1024)
    service = serve().ready()
    results: list[tuple[int, dict]] = []

    def ask() -> None:
        results.append(service.classify(deadline_ms=8000))

    threads = [threading.Thread(target=ask) for _ in range(200)]
    for thread in threads:
        thread.start()
    os.kill(service.processes()["engine"], signal.SIGKILL)
    killed = time.monotonic()
    service.wait_for(lambda: service.get("/readyz")[0] != 200, 3)
    service.wait_for(lambda: service.get("/readyz")[0] == 200, 10)
    back_s = time.monotonic() - killed
    for thread in threads:
        thread.join(20)
    assert len(results) == 200
    assert {status for status, _ in results} <= {200, 503}
    assert service.classify()[0] == 200
    assert any(line["message"].startswith("died") and line["reason"] == "SIGKILL" for line in service.log())
    assert back_s < 10  # three seconds on a quiet machine: this one may be busy


def test_a_killed_front_end_is_replaced_on_the_same_port(serve, tiny):
    service = serve("--workers", "2").ready()
    before = service.processes()["frontends"]
    assert len(before) == 2
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    service.wait_for(
        lambda: (
            len(service.processes()["frontends"]) == 2
            and not set(service.processes()["frontends"]) & set(before)
        )
    )
    service.wait_for(lambda: service.get("/readyz")[0] == 200)
    assert service.classify()[0] == 200


def test_a_front_end_that_starts_does_not_make_the_shared_socket_block_for_the_others():
    with listen("127.0.0.1", 0) as shared:
        assert not os.get_blocking(shared.fileno())
        with inherited(os.dup(shared.fileno())) as listener, listener.dup():
            assert not os.get_blocking(shared.fileno())


def test_a_killed_supervisor_leaves_no_process_and_a_new_one_takes_the_port_at_once(serve, tiny):
    first = serve().ready()
    children = [first.processes()["engine"], *first.processes()["frontends"]]
    first.process.kill()
    first.process.wait()
    second = serve("--port", str(first.port)).ready()
    assert not any(alive(pid) for pid in children)
    assert second.classify()[0] == 200


def test_a_new_start_removes_the_folder_of_a_killed_one(serve, tiny, monkeypatch):
    service = serve().ready()
    (stale,) = service.tmpdir.glob("anytime-*")
    monkeypatch.setattr(tempfile, "tempdir", str(service.tmpdir))
    living = RuntimeFolder()
    assert stale.exists(), "its supervisor lives"
    living.remove()
    service.process.kill()
    service.process.wait()
    fresh = RuntimeFolder()
    assert not stale.exists()
    fresh.remove()


def test_a_request_in_flight_at_sigterm_is_answered(serve, tmp_path):
    publish_tiny_model(tmp_path / "models", hidden=2048)
    service = serve().ready()
    results: list[tuple[int, dict]] = []
    threads = [threading.Thread(target=lambda: results.append(service.classify())) for _ in range(40)]
    for thread in threads:
        thread.start()
    service.wait_for(lambda: service.get("/readyz")[0] == 200)
    service.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(20)
    assert service.process.wait(15) == 0
    assert len(results) == 40
    assert {status for status, _ in results} <= {200, 503}
    assert sum(status == 200 for status, _ in results) >= 1


def test_a_second_signal_ends_it_without_waiting(serve, tiny):
    service = serve("--drain-s", "60").ready()
    stuck = socket.create_connection(("127.0.0.1", service.port))
    stuck.sendall(b"POST /classify?deadline_ms=60000 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
    service.process.send_signal(signal.SIGINT)
    service.wait_for(lambda: any(line["message"] == "shutting down" for line in service.log()))
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(10) in {0, 1}
    stuck.close()


def test_a_port_in_use_is_one_clear_line_and_status_1(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "server", "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in line


def test_without_a_model_it_starts_is_unready_and_says_so(serve, tmp_path):
    (tmp_path / "models").mkdir()
    service = serve()
    service.wait_for(lambda: "not ready: no usable model" in service.out.read_text())
    service.port = next(line["port"] for line in service.log() if line["message"] == "listening")
    status, body = service.get("/readyz")
    assert status == 503
    assert "no usable model" in body["detail"]
    assert service.get("/livez")[0] == 200


def test_all_processes_together_stay_under_600_megabytes_and_metrics_cover_them(serve, tiny):
    service = serve("--workers", "2").ready()
    for _ in range(5):
        assert service.classify()[0] == 200
    known = service.processes()
    total = sum(
        psutil.Process(pid).memory_info().rss
        for pid in [known["supervisor"], known["engine"], *known["frontends"]]
    )
    assert total < 600e6
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    assert 'anytime_launches_total{model="tiny@1",stage="column1"}' in text
    assert "anytime_requests_total" in text


def test_bad_settings_are_named_and_end_with_status_2(capsys):
    assert main(["--port", "70000"]) == 2
    assert "port" in capsys.readouterr().err
    assert main(["--cpus", "nonsense"]) == 2
    assert "--cpus nonsense" in capsys.readouterr().err


def test_starting_imports_neither_fastapi_nor_numpy_nor_torch():
    heavy = ("fastapi", "numpy", "torch", "onnxruntime")
    code = f"import sys, server.__main__; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_child_is_started_again_at_once_and_then_ever_later():
    child = Child(FRONT_END, "front end 1", started_s=0.0)
    delays = []
    for _ in range(9):
        child.started_s = 100.0
        delays.append(child.ended(101.0))
    assert delays == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    child.started_s = 100.0
    assert child.ended(200.0) == 0.0, "a long life is forgiven"


def test_a_child_that_the_machine_has_no_room_for_is_tried_again_later():
    def spawn(_module: str, _environment: dict[str, str], _descriptors: tuple[int, ...]) -> Any:
        raise OSError(12, "Cannot allocate memory")

    folder = RuntimeFolder()
    with contextlib.closing(listen("127.0.0.1", 0)) as listener:
        supervisor = Supervisor(Settings(), listener, folder, spawn)
        engine = supervisor._engine
        due = []
        for _ in range(3):
            supervisor._start(engine, 100.0)
            due.append(engine.due_s)
    folder.remove()
    assert engine.process is None
    assert due == [100.5, 101.0, 102.0]


def test_a_stage_that_hangs_for_ever_is_told_to_the_next_engine_no_oftener_than_counts():
    told: list[ChildContext] = []

    def spawn(_module: str, environment: dict[str, str], _descriptors: tuple[int, ...]) -> Any:
        told.append(ChildContext.decode(environment[ENVIRONMENT_KEY]))
        return SimpleNamespace(pid=1)

    folder = RuntimeFolder()
    with contextlib.closing(listen("127.0.0.1", 0)) as listener:
        supervisor = Supervisor(Settings(), listener, folder, spawn)
        for stage in ("a@1 full", *["b@1 only"] * 50):
            supervisor._hang = Hang("hung", stage, 2.5)
            supervisor._note_end_of_engine()
            supervisor._start(supervisor._engine, 0.0)
    folder.remove()
    assert told[-1].hangs == ("a@1 full", "b@1 only", "b@1 only")
    assert told[-1].ended == "hung"


def test_ends_are_told_in_words():
    assert reason_of(0) == "exit status 0"
    assert reason_of(3) == "exit status 3"
    assert reason_of(-9) == "SIGKILL"


@pytest.mark.parametrize(
    ("text", "cores"), [("0", {0}), ("0,2", {0, 2}), ("0-3", {0, 1, 2, 3}), ("1,4-5", {1, 4, 5})]
)
def test_cores_are_read_as_taskset_writes_them(text, cores):
    assert cores_of(text) == cores


@pytest.mark.parametrize("text", ["a", "3-1", "", "1-2-3"])
def test_nonsense_is_no_list_of_cores(text):
    with pytest.raises(ValueError, match=r"."):
        cores_of(text)


def test_listening_gives_up_on_a_port_that_stays_taken():
    with listen("127.0.0.1", 0) as taken, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", taken.getsockname()[1], patience_s=0.1)
