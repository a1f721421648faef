"""Responses are read the same however they are cut up, and nonsense is called nonsense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.wire import MalformedResponse, Response, ResponseReader, request_head, request_tail

SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
TRAILERS = CHUNKED[:-2] + b"X-Took: 3\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED
HELLO = Response(200, b"hello", True)


def read(reader: ResponseReader, pieces: list[bytes]) -> list[Response]:
    return [response for piece in pieces if (response := reader.feed(piece)) is not None]


@pytest.mark.parametrize("raw", [SIZED, CHUNKED, TRAILERS, INTERIM, SIZED.replace(b"C", b"c")])
@given(data=st.data())
def test_a_response_reads_the_same_however_it_is_cut(raw: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=8)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    reader = ResponseReader()
    assert read(reader, pieces) == [HELLO]
    assert reader.idle
    assert read(reader, pieces) == [HELLO]  # the same connection carries another


def test_nothing_is_given_before_the_last_byte() -> None:
    for raw in (SIZED, CHUNKED, TRAILERS):
        reader = ResponseReader()
        assert reader.feed(raw[:-1]) is None
        assert not reader.idle
        assert reader.end() is None
        assert reader.feed(raw[-1:]) == HELLO


def test_a_body_without_length_ends_with_the_connection() -> None:
    reader = ResponseReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\nhel") is None
    assert reader.feed(b"lo") is None
    assert reader.end() == Response(200, b"hello", False)


@pytest.mark.parametrize("head", [b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 200 OK\r\nConnection: Close\r\n"])
def test_a_closing_connection_is_not_used_again(head: bytes) -> None:
    response = ResponseReader().feed(head + b"Content-Length: 0\r\n\r\n")
    assert response == Response(200, b"", False)


def test_bytes_beyond_the_response_spoil_the_connection() -> None:
    response = ResponseReader().feed(SIZED + b"HTTP")
    assert response == Response(200, b"hello", False)


def test_no_content_has_no_body() -> None:
    assert ResponseReader().feed(b"HTTP/1.1 204 No Content\r\n\r\n") == Response(204, b"", True)


@pytest.mark.parametrize(
    "raw",
    [
        b"220 mail\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1f\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n",
        b"x" * 70_000,
    ],
)
def test_nonsense_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedResponse):
        ResponseReader().feed(raw)


def test_a_request_is_its_head_and_its_tail() -> None:
    raw = request_head("/classify?deadline_ms=50", "127.0.0.1:1") + request_tail("image/png", b"abc")
    assert raw.startswith(b"POST /classify?deadline_ms=50 HTTP/1.1\r\nHost: 127.0.0.1:1\r\n")
    assert raw.endswith(b"Content-Type: image/png\r\nContent-Length: 3\r\n\r\nabc")


def test_a_target_cannot_smuggle_headers() -> None:
    with pytest.raises(ValueError, match="target"):
        request_head("/classify?x=\r\nA: b", "h")
