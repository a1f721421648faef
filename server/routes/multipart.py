"""multipart/form-data -> its files.

Knows RFC 7578 over a body that is wholly there; must not know images. A complete body of at most a few megabytes needs
no streaming parser and no temporary files: the boundary is searched for.
"""

from __future__ import annotations

from dataclasses import dataclass

from python_multipart.multipart import parse_options_header

from server.errors import TooLarge, Unprocessable

_MAX_PART_HEADERS = 8192


@dataclass(frozen=True, slots=True)
class Upload:
    """One file: its name as the client gave it (may be empty), its media type (empty if absent) and content."""

    name: str
    content_type: bytes
    data: bytes


def uploads(body: bytes, content_type: bytes, max_files: int) -> list[Upload]:
    """The files of a form, in order.

    Raises:
        Unprocessable: the form is malformed, ends too early, holds no file, or a field that is no file.
        TooLarge: more than `max_files`.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 1 <= len(boundary) <= 200:
        raise Unprocessable("multipart/form-data needs a boundary.")
    found: list[Upload] = []
    for part in _parts(body, b"--" + boundary):
        if len(found) == max_files:
            raise TooLarge(f"At most {max_files} files are taken at once.")
        found.append(_upload(part))
    if not found:
        raise Unprocessable("The form holds no file.")
    return found


def _parts(body: bytes, delimiter: bytes) -> list[bytes]:
    position = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter) + 2
    if position < 2 and not body.startswith(delimiter):
        raise Unprocessable("The form does not contain its boundary.")
    position += len(delimiter)
    parts = []
    while not body.startswith(b"--", position):
        start = body.find(b"\r\n", position)
        end = body.find(b"\r\n" + delimiter, start)
        if start < 0 or end < 0 or body[position:start].strip(b" \t"):
            raise Unprocessable("The form ends too early or is malformed.")
        parts.append(body[start + 2 : end])
        position = end + 2 + len(delimiter)
    return parts


def _upload(part: bytes) -> Upload:
    head, separator, data = part.partition(b"\r\n\r\n")
    if not separator or len(head) > _MAX_PART_HEADERS:
        raise Unprocessable("A part of the form has no proper headers.")
    fields = [line.partition(b":") for line in head.split(b"\r\n")]
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    disposition, options = parse_options_header(headers.get(b"content-disposition", b""))
    if disposition != b"form-data" or b"filename" not in options:
        raise Unprocessable("The form may hold files only; parameters go into the query string.")
    name = options[b"filename"].decode("utf-8", "replace")[:255]
    return Upload(name, headers.get(b"content-type", b""), data)
