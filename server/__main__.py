"""`python -m server`: settings from the command line and the environment, then the supervisor."""

from __future__ import annotations

import logging
import os
import socket
import sys

from pydantic import ValidationError
from pydantic_settings import SettingsError

from server import logs
from server.announce import Announcer, url_of
from server.settings import Settings
from server.supervisor import RuntimeFolder, Supervisor, cores_of, listen

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run the service; returns the exit status."""
    try:
        settings = Settings(_cli_parse_args=sys.argv[1:] if arguments is None else arguments)
    except (ValidationError, SettingsError) as error:
        return _refuse(2, _reasons(error))
    logs.configure(settings.log_level, "supervisor")
    try:
        _take_cores(settings.cpus)
    except (ValueError, OSError) as error:
        return _refuse(2, f"--cpus {settings.cpus}: {error}")
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        return _refuse(1, f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}")
    return _serve(settings, listener)


def _serve(settings: Settings, listener: socket.socket) -> int:
    port = listener.getsockname()[1]
    logger.info("listening", extra={"url": url_of(settings.host, port), "host": settings.host, "port": port})
    folder = RuntimeFolder()
    announcer = Announcer(settings.host, port, lambda line: print(line, flush=True))
    announcer.start()
    try:
        return Supervisor(settings, listener, folder).run()
    finally:
        announcer.stop()
        folder.remove()


def _take_cores(cpus: str) -> None:
    if cpus:
        os.sched_setaffinity(0, cores_of(cpus))


def _refuse(status: int, reason: str) -> int:
    print(f"python -m server: {reason}", file=sys.stderr)
    return status


def _reasons(error: ValidationError | SettingsError) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)
        )
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
