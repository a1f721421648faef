"""Forms -> files."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import TooLarge, Unprocessable
from server.routes.multipart import Upload, uploads


def form(files: list[tuple[str, bytes, str]]) -> tuple[bytes, bytes]:
    """As a client encodes it: body and content type."""
    request = httpx.Request("POST", "http://x", files=[("file", one) for one in files])
    return request.read(), request.headers["Content-Type"].encode()


def test_files_come_in_order_with_name_type_and_content() -> None:
    body, media = form([("a.png", b"first", "image/png"), ("b c.jpg", b"", "image/jpeg")])
    assert uploads(body, media, 32) == [
        Upload("a.png", b"image/png", b"first"),
        Upload("b c.jpg", b"image/jpeg", b""),
    ]


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_any_content_survives(contents: list[bytes]) -> None:
    body, media = form([(f"{n}", data, "image/png") for n, data in enumerate(contents)])
    assert [upload.data for upload in uploads(body, media, 32)] == contents


def test_line_ends_and_dashes_inside_a_file_are_content() -> None:
    data = b"\r\n--almost\r\n\r\n--\r\n"
    body, media = form([("a", data, "image/png")])
    assert uploads(body, media, 32)[0].data == data


def test_a_preamble_and_an_epilogue_are_ignored() -> None:
    part = b'Content-Disposition: form-data; name="f"; filename="a"\r\n\r\nX'
    body = b"preamble\r\n--b\r\n" + part + b"\r\n--b--\r\nepilogue"
    assert uploads(body, b"multipart/form-data; boundary=b", 32) == [Upload("a", b"", b"X")]


def test_too_many_files_are_too_large() -> None:
    body, media = form([("a", b"x", "image/png")] * 3)
    with pytest.raises(TooLarge):
        uploads(body, media, 2)


PART = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nX\r\n'


@pytest.mark.parametrize(
    ("body", "media"),
    [
        (b"", b"multipart/form-data; boundary=b"),
        (b"no boundary at all", b"multipart/form-data; boundary=b"),
        (PART + b"--b--", b"multipart/form-data"),
        (PART + b"--b--", b"multipart/form-data; boundary="),
        (PART, b"multipart/form-data; boundary=b"),
        (PART[:-3], b"multipart/form-data; boundary=b"),
        (b"--b--\r\n", b"multipart/form-data; boundary=b"),
        (b"--b\r\nno headers\r\n--b--", b"multipart/form-data; boundary=b"),
        (
            b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\n5\r\n--b--',
            b"multipart/form-data; boundary=b",
        ),
        (b"--b\r\nContent-Type: image/png\r\n\r\n5\r\n--b--", b"multipart/form-data; boundary=b"),
        (b"--bX: y\r\n\r\n\r\n--b--", b"multipart/form-data; boundary=b"),
    ],
)
def test_what_is_no_proper_form_is_refused(body: bytes, media: bytes) -> None:
    with pytest.raises(Unprocessable):
        uploads(body, media, 32)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_form_or_refused(data: bytes) -> None:
    for body in (data, PART + data, data + b"\r\n--b--"):
        try:
            assert uploads(body, b"multipart/form-data; boundary=b", 32)
        except (Unprocessable, TooLarge):
            continue
