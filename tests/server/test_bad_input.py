"""Bad input against a running front end: each case its own clear status, in time, and the next request as before."""

from __future__ import annotations

import io
import resource
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.server.conftest import Service, image_bytes

HEADER_TIMEOUT_S = 1.0
BODY_TIMEOUT_S = 1.0
PATIENCE_S = 15.0  # far beyond every limit of this service: only a hang takes longer


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Service]) -> Service:
    service = start_service(header_timeout_s=HEADER_TIMEOUT_S, body_timeout_s=BODY_TIMEOUT_S)
    service.front.wait_until()
    return service


@pytest.fixture(autouse=True)
def _the_next_request_is_served_as_before(service: Service, png: bytes) -> object:
    yield
    response = service.front.classify(png, "deadline_ms=5000", **{"Content-Type": "image/png"})
    assert response.status_code == 200
    assert response.json()["stop_reason"] == "deepest"


def bomb() -> bytes:
    """100 megapixels in 12 kB."""
    buffer = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, "PNG")
    return buffer.getvalue()


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (32, 32), (shade, 0, 0)) for shade in (0, 100, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def photograph() -> bytes:
    """12 megapixels with detail, as a camera writes it."""
    coarse = np.random.default_rng(3).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((4000, 3000), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, exif=exif.tobytes())
    return buffer.getvalue()


PNG = image_bytes()
GOOD: dict[str, str] = {"Content-Type": "image/png"}


@dataclass(frozen=True)
class Case:
    """One bad request and what it gets."""

    name: str
    status: int
    body: bytes = PNG
    query: str = "deadline_ms=5000"
    headers: dict[str, str] = field(default_factory=lambda: GOOD)


CASES = [
    Case("text instead of an image", 422, b"this is no image"),
    Case("a script instead of an image", 422, b"<html><script>alert(1)</script></html>"),
    Case("zero bytes", 422, b""),
    Case("a truncated PNG", 422, PNG[: len(PNG) // 2]),
    Case("a truncated JPEG", 422, image_bytes("JPEG")[:-20]),
    Case("a truncated WebP", 422, image_bytes("WEBP")[:-20]),
    Case("a PNG header and nothing else", 422, PNG[:33]),
    Case("a bomb of 100 megapixels", 413, bomb()),
    Case("a body of 11 MB", 413, bytes(11_000_000)),
    Case("a GIF", 415, image_bytes("GIF")),
    Case("a BMP", 415, image_bytes("BMP")),
    Case("an animated PNG", 422, animation("PNG")),
    Case("an animated WebP", 422, animation("WEBP")),
    Case("JSON by its content type", 415, headers={"Content-Type": "application/json"}),
    Case("a GIF by its content type", 415, headers={"Content-Type": "image/gif"}),
    Case("a nonsensical content type", 415, headers={"Content-Type": "nonsense"}),
    Case("a form without a boundary", 422, headers={"Content-Type": "multipart/form-data"}),
    Case("a form that is an image", 422, headers={"Content-Type": "multipart/form-data; boundary=x"}),
    Case("a deadline of -1", 422, query="deadline_ms=-1"),
    Case("a deadline of 0", 422, query="deadline_ms=0"),
    Case("a deadline of nan", 422, query="deadline_ms=nan"),
    Case("a deadline of inf", 422, query="deadline_ms=inf"),
    Case("a deadline of 1e99", 422, query="deadline_ms=1e99"),
    Case("a deadline of abc", 422, query="deadline_ms=abc"),
    Case("an empty deadline", 422, query="deadline_ms="),
    Case("a deadline with underscores", 422, query="deadline_ms=1_000"),
    Case("a deadline in Arabic digits", 422, query="deadline_ms=%D9%A1%D9%A0"),
    Case("a deadline beyond the largest", 422, query="deadline_ms=60001"),
    Case("one bad deadline of two", 422, query="deadline_ms=100&deadline_ms=x"),
    Case("a deadline that nothing can make", 503, query="deadline_ms=0.001"),
    Case("an unknown model", 404, query="model=unknown"),
    Case("an unknown version", 404, query="model=tiny@99"),
    Case("a model out of a path", 422, query="model=../../etc/passwd"),
    Case("top_k of 0", 422, query="top_k=0"),
    Case("top_k of 10 000", 422, query="top_k=10000"),
    Case("top_k of -1", 422, query="top_k=-1"),
    Case("top_k of 1.5", 422, query="top_k=1.5"),
    Case("top_k given twice", 422, query="top_k=1&top_k=2"),
    Case("min_confidence above 1", 422, query="min_confidence=1.1"),
    Case("min_confidence of nan", 422, query="min_confidence=nan"),
    Case("a query without end", 422, query="x=" + "y" * 5000),
]


@pytest.mark.parametrize("path", ["/classify", "/classify/stream"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_requests_get_a_clear_status(service: Service, path: str, case: Case) -> None:
    response = service.front.client.post(f"{path}?{case.query}", content=case.body, headers=case.headers)
    assert response.status_code == case.status
    check_problem(response)


def test_a_body_too_large_is_refused_by_its_announced_length_before_it_is_sent(service: Service) -> None:
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 11000000\r\n\r\n"
    assert status_of(exchange(service, head)) == 413


def test_a_body_too_large_without_an_announced_length_is_refused_as_it_comes(service: Service) -> None:
    response = service.front.client.post(
        "/classify?deadline_ms=20000", content=(bytes(500_000) for _ in range(30))
    )
    assert response.status_code == 413


def test_a_form_of_33_files_is_too_large(service: Service) -> None:
    files = [("file", (f"{n}.png", PNG, "image/png")) for n in range(33)]
    response = service.front.client.post("/classify", files=files)
    assert response.status_code == 413
    assert service.front.client.post("/classify?deadline_ms=20000", files=files[:32]).status_code == 200


def test_a_form_with_a_field_that_is_no_file_is_refused(service: Service) -> None:
    response = service.front.client.post("/classify", files={"a": ("a.png", PNG)}, data={"deadline_ms": "5"})
    assert response.status_code == 422


def test_a_form_that_ends_too_early_is_refused(service: Service) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n' + PNG
    response = service.front.classify(body, **{"Content-Type": "multipart/form-data; boundary=x"})
    assert response.status_code == 422


# Time


def test_a_body_that_never_finishes_is_timed_out_at_the_body_time_out(service: Service) -> None:
    reply = exchange(service, head(len(PNG), "deadline_ms=30000") + PNG[:100])
    assert status_of(reply) == 408
    assert b"application/problem+json" in reply


def test_a_body_that_never_finishes_is_timed_out_at_the_deadline_if_that_is_sooner(service: Service) -> None:
    start = time.monotonic()
    assert status_of(exchange(service, head(len(PNG), "deadline_ms=100") + PNG[:100], whole=False)) == 408
    assert time.monotonic() - start < BODY_TIMEOUT_S


def test_a_body_that_drips_is_timed_out(service: Service) -> None:
    with service.front.connect() as connection:
        connection.sendall(head(len(PNG), "deadline_ms=30000"))
        reply = drip(connection, PNG)
    assert status_of(reply) == 408


@pytest.mark.parametrize("start", [b"", b"P", b"POST /classify HTTP/1.1\r\nHost: x\r\nX-Half: "])
def test_headers_that_never_finish_are_timed_out(service: Service, start: bytes) -> None:
    reply = exchange(service, start)
    assert status_of(reply) == 408
    assert b"application/problem+json" in reply


def test_headers_that_drip_are_timed_out(service: Service) -> None:
    with service.front.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nX-Long: ")
        reply = drip(connection, b"a" * 10_000)
    assert status_of(reply) == 408


def test_the_next_request_on_a_kept_connection_has_the_same_time_for_its_headers(service: Service) -> None:
    with service.front.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status_of(connection.recv(65536)) == 200
        time.sleep(HEADER_TIMEOUT_S * 1.5)  # an idle connection that has had an answer may stay
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        assert b"HTTP/1.1 408 " in rest_of(connection)


def test_the_rest_of_a_refused_body_is_not_waited_for_without_end(service: Service) -> None:
    with service.front.connect() as connection:
        connection.sendall(head(11_000_000, ""))
        assert status_of(connection.recv(65536)) == 413
        assert rest_of(connection) == b""


def test_a_client_that_does_not_read_is_cut_off(service: Service) -> None:
    asked = 80
    with service.front.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * asked)
        time.sleep(HEADER_TIMEOUT_S * 2)
        received = rest_of(connection, reset_is_an_end=True)
    assert received.count(b"HTTP/1.1 200") < asked


# HTTP itself


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"this is not http\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_bytes_that_are_no_http_get_400(service: Service, garbage: bytes) -> None:
    reply = exchange(service, garbage)
    assert status_of(reply) == 400
    assert b"application/problem+json" in reply


def test_headers_without_end_get_431(service: Service) -> None:
    line = b"X-Filler: " + b"a" * 1000 + b"\r\n"
    assert status_of(exchange(service, b"GET /livez HTTP/1.1\r\n" + line * 200)) == 431


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(service: Service) -> None:
    with service.front.connect() as connection:
        connection.sendall(head(len(PNG), "deadline_ms=5000", b"Expect: 100-continue\r\n"))
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(PNG)
        assert status_of(connection.recv(65536)) == 200


def test_an_offer_to_upgrade_is_declined_by_answering(service: Service) -> None:
    upgrade = (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
    )
    with service.front.connect() as connection:
        connection.sendall(head(len(PNG), "deadline_ms=5000", upgrade) + PNG[:1000])
        time.sleep(0.05)
        connection.sendall(PNG[1000:])
        assert status_of(rest_of(connection)) == 200
    get = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert status_of(exchange(service, get)) == 200


def test_a_connect_request_is_refused(service: Service) -> None:
    assert status_of(exchange(service, b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n")) in (
        400,
        404,
        405,
    )


# Load of a kind


def test_two_thousand_silent_connections_are_sent_away_and_do_no_harm(service: Service, png: bytes) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    silent = [service.front.connect() for _ in range(2000)]
    try:
        response = service.front.classify(png, "deadline_ms=5000")
        assert response.status_code == 200
        replies = [status_of(rest_of(connection)) for connection in silent]
    finally:
        for connection in silent:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert set(replies) == {408}


def test_a_photograph_of_12_megapixels_is_answered(service: Service) -> None:
    response = service.front.classify(photograph(), "deadline_ms=5000", **{"Content-Type": "image/jpeg"})
    assert response.status_code == 200
    assert response.json()["elapsed_ms"] < 5000


def test_more_connections_than_allowed_are_told_so(start_service: Callable[..., Service]) -> None:
    service = start_service(max_connections=3)
    service.front.wait_until()
    service.front.client.close()
    held = [service.front.connect() for _ in range(3)]
    with service.front.connect() as one_too_many:
        reply = rest_of(one_too_many)
    assert status_of(reply) == 503
    assert b"retry-after: 1" in reply
    for connection in held:
        connection.close()


def check_problem(response: httpx.Response) -> None:
    assert response.headers["Content-Type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    assert body["detail"] == body["error"]
    assert "Traceback" not in response.text
    if response.status_code == 503:
        assert int(response.headers["Retry-After"]) >= 1
        assert body["smallest_feasible_deadline_ms"] > 0


def head(length: int, query: str, more: bytes = b"") -> bytes:
    return b"POST /classify?%b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n" % (
        query.encode(),
        more,
        length,
    )


def exchange(service: Service, data: bytes, *, whole: bool = True) -> bytes:
    """What comes back until the server closes, or just the first of it."""
    with service.front.connect() as connection:
        connection.sendall(data)
        return rest_of(connection) if whole else connection.recv(65536)


def rest_of(connection: socket.socket, *, reset_is_an_end: bool = False) -> bytes:
    connection.settimeout(PATIENCE_S)
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:
        if not reset_is_an_end:
            raise
    return received


def drip(connection: socket.socket, data: bytes) -> bytes:
    """Sends a byte now and then until the server has had enough; what it says."""
    connection.settimeout(0.05)
    give_up = time.monotonic() + PATIENCE_S
    for byte in data:
        assert time.monotonic() < give_up
        connection.sendall(bytes([byte]))
        try:
            return connection.recv(65536)
        except TimeoutError:
            continue
    raise AssertionError("the server took it all")


def status_of(reply: bytes) -> int:
    assert reply.startswith(b"HTTP/1.1 "), reply[:100]
    return int(reply[9:12])


@pytest.mark.parametrize("pause_s", [0.0, 0.05])
def test_the_body_of_a_refused_request_is_not_taken_for_headers_of_the_next(
    service: Service, pause_s: float
) -> None:
    size = 1_000_000
    with service.front.connect() as connection:
        connection.sendall(head(size, "top_k=0"))
        time.sleep(pause_s)
        connection.sendall(bytes(size))
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = rest_of(connection)
    assert received.startswith(b"HTTP/1.1 422")
    assert received.count(b"HTTP/1.1 200") == 1
    assert b"431" not in received
