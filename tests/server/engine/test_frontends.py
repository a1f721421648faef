"""The engine's end of the links, with front ends of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.channel import Channel
from server.engine.frontends import HIGH_WATER, FrontEnds
from server.messages import Cancel, Done, decode, encode

EPOCH = 5


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[FrontEnds]:
    made = FrontEnds(tmp_path / "e.sock", EPOCH)
    yield made
    made.close()


@pytest.fixture
def pair(ends: FrontEnds, tmp_path: Path) -> Iterator[tuple[Channel, Channel]]:
    made = Channel.connect(tmp_path / "e.sock"), Channel.connect(tmp_path / "e.sock")
    yield made
    for channel in made:
        channel.close()


def hello(number: int) -> bytes:
    return encode(EPOCH, [Cancel(number)])


def test_one_who_sends_without_end_does_not_keep_the_others_from_being_heard(
    ends: FrontEnds, pair: tuple[Channel, Channel]
) -> None:
    for number in range(1000):
        pair[0].send(hello(number))
    pair[1].send(hello(5000))
    heard: list[int] = []
    for _ in range(4):  # turns, in each of which there is time for a few
        for (_, envelope), _ in zip(ends.receive(), range(3), strict=False):
            (message,) = envelope.messages
            assert isinstance(message, Cancel)
            heard.append(message.number)
    assert 5000 in heard


def test_what_is_not_taken_in_a_turn_is_there_in_the_next_and_waiting_does_not_wait(
    ends: FrontEnds, pair: tuple[Channel, Channel]
) -> None:
    for number in range(5):
        pair[0].send(hello(number))
    first = next(ends.receive())
    ends.wait(ends._listener.fileno(), 60)
    rest = list(ends.receive())
    assert [envelope.messages for _, envelope in [first, *rest]] == [[Cancel(number)] for number in range(5)]


def test_one_who_leaves_is_told_of_once(ends: FrontEnds, pair: tuple[Channel, Channel]) -> None:
    pair[0].send(hello(1))
    pair[1].send(hello(2))
    assert len(list(ends.receive())) == 2
    pair[0].close()
    assert list(ends.receive()) == []
    assert len(ends.flush()) == 1
    assert ends.flush() == []
    assert len(ends.known) == 1


def test_one_who_does_not_read_loses_messages_and_the_log_says_so(
    ends: FrontEnds, pair: tuple[Channel, Channel], caplog: pytest.LogCaptureFixture
) -> None:
    pair[0].send(hello(1))
    pair[1].send(hello(2))
    deaf, other = (front_end for front_end, _ in ends.receive())
    while not deaf.lost:
        deaf.outbox += [Done(number, "x" * 1000) for number in range(1000)]
        ends.flush()
    assert deaf.channel.unsent > HIGH_WATER
    assert "does not read" in caplog.text
    other.outbox.append(Done(3, "deadline"))
    ends.flush()
    reader = pair[0] if deaf is list(ends.known.values())[1] else pair[1]
    assert [decode(data).messages for data in reader.receive()] == [[Done(3, "deadline")]]
