"""Responses that leave together."""

from __future__ import annotations

from typing import Any

import pytest

from server.outgoing import MOST, Outgoing


class Transports:
    """Any number of them: what was written, in order."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)


@pytest.fixture
def transport() -> Any:
    return Transports()


def test_alone_each_leaves_at_once(transport: Any) -> None:
    outgoing = Outgoing()
    outgoing.write(transport, b"a")
    assert transport.written == [b"a"]
    with outgoing.together():
        pass
    outgoing.write(transport, b"b")
    assert transport.written == [b"a", b"b"]


def test_together_they_leave_at_the_end_in_order(transport: Any) -> None:
    outgoing = Outgoing()
    with outgoing.together():
        outgoing.write(transport, b"a")
        outgoing.write(transport, b"b")
        assert transport.written == []
    assert transport.written == [b"a", b"b"]


def test_no_more_than_a_few_wait_for_each_other(transport: Any) -> None:
    outgoing = Outgoing()
    with outgoing.together():
        for number in range(MOST + 1):
            outgoing.write(transport, b"%d" % number)
        assert len(transport.written) == MOST
    assert transport.written == [b"%d" % number for number in range(MOST + 1)]


def test_whatever_goes_wrong_meanwhile_they_leave(transport: Any) -> None:
    outgoing = Outgoing()

    def fail_meanwhile() -> None:
        with outgoing.together():
            outgoing.write(transport, b"a")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_meanwhile()
    assert transport.written == [b"a"]
    outgoing.write(transport, b"b")
    assert transport.written == [b"a", b"b"]
