"""Tells the person at the terminal, and the log, when the service is ready or why it is not.

Knows only what any client can ask: GET /readyz. Runs in a thread of the supervisor until the service is ready once.
"""

from __future__ import annotations

import http.client
import json
import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

ASK_EVERY_S = 0.1
TIMEOUT_S = 2.0
NOTHING_TO_SERVE = "no usable model"  # the engine says so, and will not change its mind
_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - read, not bound


def url_of(host: str, port: int) -> str:
    """The address for a browser on this machine."""
    reachable = _LOCAL.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


class Announcer:
    """Asks until the answer is yes.

    Args:
        host, port: where the service listens.
        say: prints the line for people.
    """

    def __init__(self, host: str, port: int, say: Callable[[str], None]) -> None:
        self._host, self._port = _LOCAL.get(host, host), port
        self._url = url_of(host, port)
        self._say = say
        self._began_s = time.monotonic()
        self._over = threading.Event()
        self._last = ""
        self._thread = threading.Thread(target=self._ask_until_ready, name="announcer", daemon=True)

    def start(self) -> None:
        """Begin asking."""
        self._thread.start()

    def stop(self) -> None:
        """The service is ending."""
        self._over.set()

    def _ask_until_ready(self) -> None:
        while not self._over.wait(ASK_EVERY_S):
            status, detail = self._ask()
            if status == 200:
                seconds = round(time.monotonic() - self._began_s, 2)
                logger.info("ready", extra={"url": self._url, "after_s": seconds})
                self._say(f"Anytime is ready on {self._url} (after {seconds} s)")
                return
            if status and detail != self._last:
                self._last = detail
                logger.debug("not ready yet", extra={"detail": detail})
                if NOTHING_TO_SERVE in detail:
                    logger.error("nothing to serve", extra={"url": self._url, "detail": detail})
                    self._say(f"Anytime is up on {self._url} but not ready: {detail}")

    def _ask(self) -> tuple[int, str]:
        """(status, detail) of /readyz; status 0 while nobody answers."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", "/readyz", headers={"Connection": "close"})
            response = connection.getresponse()
            return response.status, _detail_of(response.read())
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()


def _detail_of(body: bytes) -> str:
    try:
        document = json.loads(body)
    except ValueError:
        return ""
    return str(document.get("detail", "")) if isinstance(document, dict) else ""
