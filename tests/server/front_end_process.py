"""A real front-end process for tests, started as the supervisor starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from server.child import ENVIRONMENT_KEY, ChildContext
from server.settings import Settings


class FrontEndProcess:
    """`python -m server.app` with a listening socket of its own."""

    def __init__(self, runtime_dir: Path, models_dir: Path, **settings: Any) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # a slow reader is soon noticed
        self.port: int = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        metrics_dir = runtime_dir / "metrics"
        metrics_dir.mkdir(exist_ok=True)
        processes = runtime_dir / "processes.json"
        processes.write_text(json.dumps({"supervisor": os.getpid(), "engine": 4242, "frontends": [1]}))
        context = ChildContext(
            settings=Settings(models_dir=models_dir, **settings),
            runtime_dir=runtime_dir,
            supervisor_pid=os.getpid(),
            processes_file=processes,
            listen_fd=self.listener.fileno(),
        )
        environment = {
            **os.environ,
            ENVIRONMENT_KEY: context.encode(),
            "PROMETHEUS_MULTIPROC_DIR": str(metrics_dir),
        }
        self.log = runtime_dir / "frontend.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server.app"],
                env=environment,
                pass_fds=[self.listener.fileno()],
                stderr=log,
            )
        # Fewer kept connections than threads would have one thread close what another is about to use.
        limits = httpx.Limits(max_keepalive_connections=100)
        self.client = httpx.Client(base_url=self.url, timeout=30, trust_env=False, limits=limits)

    def wait_until(self, path: str = "/readyz", status: int = 200) -> FrontEndProcess:
        """Returns once `path` answers so."""
        give_up = time.monotonic() + 20
        while time.monotonic() < give_up:
            if self.process.poll() is not None:
                raise AssertionError(f"the front end ended: {self.log.read_text()}")
            try:
                if self.client.get(path).status_code == status:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"{path} is not {status}: {self.log.read_text()}")

    def classify(
        self, data: bytes, query: str = "", path: str = "/classify", **headers: str
    ) -> httpx.Response:
        """POSTs one image."""
        return self.client.post(f"{path}?{query}", content=data, headers=headers)

    def connect(self) -> socket.socket:
        """A raw connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def terminate(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def close(self) -> None:
        """Ends it however it stands."""
        self.client.close()
        self.listener.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
