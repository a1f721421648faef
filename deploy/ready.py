"""Is the service on this host ready? Exit status 0 or 1, for a container's health check; needs no curl.

Knows /readyz and ANYTIME_PORT. Imports the socket module only: it runs every few seconds beside the
service, so it must start fast.
"""

import os
import socket
import sys

TIMEOUT_S = 2.0
REQUEST = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def ready(port: int) -> bool:
    """Whether 127.0.0.1:port answers /readyz with 200 within the time-out."""
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
            connection.sendall(REQUEST)
            return connection.recv(64).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(not ready(int(os.environ.get("ANYTIME_PORT", "8000"))))
