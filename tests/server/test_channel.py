"""Whole messages over a stream socket that never blocks."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.channel import Channel, Closed


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    a, b = pair()
    yield a, b
    a.close()
    b.close()


def pair() -> tuple[Channel, Channel]:
    a, b = socket.socketpair()
    return Channel(a), Channel(b)


def test_messages_arrive_whole_and_in_order(ends: tuple[Channel, Channel]) -> None:
    a, b = ends
    messages = [b"", b"x", bytes(3000), b"last"]
    for message in messages:
        a.send(message)
    assert b.receive() == messages
    assert b.receive() == []


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=8), st.data())
def test_it_does_not_matter_in_which_pieces_they_come(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(len(message).to_bytes(4, "little") + message for message in messages)
    got: list[bytes] = []
    raw, other = socket.socketpair()
    with raw, contextlib.closing(Channel(other)) as end:
        while stream:
            length = data.draw(st.integers(1, len(stream)))
            raw.sendall(stream[:length])
            stream = stream[length:]
            got += end.receive()
    assert got == messages


def test_what_the_kernel_has_no_room_for_is_kept_and_follows(ends: tuple[Channel, Channel]) -> None:
    a, b = ends
    messages = [bytes([number]) * 700_000 for number in range(12)]
    for message in messages:
        a.send(message)
    assert a.unsent > 0
    got: list[bytes] = []
    while len(got) < len(messages):
        assert select.select([b], (), (), 5)[0]
        got += b.receive()
        a.flush()
    assert got == messages
    assert a.unsent == 0


def test_what_was_said_before_the_end_is_heard_before_it(ends: tuple[Channel, Channel]) -> None:
    a, b = ends
    a.send(b"last words")
    a.close()
    assert b.receive() == [b"last words"]
    with pytest.raises(Closed):
        b.receive()
    with pytest.raises(Closed):
        b.send(b"nobody hears")


def test_on_closing_what_is_kept_may_still_leave() -> None:
    a, b = pair()
    a.send(bytes(300_000))
    a.close(linger_s=1.0)
    assert b.receive() == [bytes(300_000)]
    b.close()


def test_one_that_does_not_read_does_not_keep_it_from_closing() -> None:
    a, b = pair()
    a.send(bytes(5_000_000))
    a.close(linger_s=0.05)
    assert a.fileno() == -1
    b.close()


def test_a_length_without_sense_is_the_end() -> None:
    raw, other = socket.socketpair()
    end = Channel(other)
    raw.sendall(b"\xff\xff\xff\xff")
    with pytest.raises(Closed):
        end.receive()
    raw.close()
    end.close()


def test_nobody_listening_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Channel.connect(tmp_path / "nobody")
