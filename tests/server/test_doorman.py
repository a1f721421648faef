"""The doorman on a manual clock, and responses without a route."""

from __future__ import annotations

from server.connections import response_bytes
from server.doorman import Doorman, Phase
from server.errors import Overloaded


class StubConnection:
    """Remembers when its time was up."""

    def __init__(self) -> None:
        self.phase = Phase.BUSY
        self.ended: list[Phase] = []

    def time_is_up(self) -> None:
        self.ended.append(self.phase)

    def cut_off(self) -> None:
        self.ended.append(self.phase)


class Clock:
    now = 0


def doorman() -> Doorman:
    Clock.now = 0
    return Doorman(
        max_connections=10,
        header_timeout_s=5e-9,
        keep_alive_s=20e-9,
        new_id=lambda: "id",
        clock=lambda: Clock.now,
    )


def test_headers_have_their_time_and_no_more() -> None:
    door, one = doorman(), StubConnection()
    door.watch(one, Phase.HEADERS)
    Clock.now = 4
    door.sweep()
    assert one.ended == []
    Clock.now = 5
    door.sweep()
    door.sweep()
    assert one.ended == [Phase.HEADERS]


def test_a_busy_connection_is_left_alone() -> None:
    door, one = doorman(), StubConnection()
    door.watch(one, Phase.HEADERS)
    door.watch(one, Phase.BUSY)
    Clock.now = 1000
    door.sweep()
    assert one.ended == []
    assert door.count(Phase.HEADERS) == 0


def test_each_phase_has_its_own_limit_and_starts_anew() -> None:
    door, one = doorman(), StubConnection()
    door.watch(one, Phase.IDLE)
    Clock.now = 19
    door.sweep()
    door.watch(one, Phase.HEADERS)
    Clock.now = 23
    door.sweep()
    assert one.ended == []
    Clock.now = 24
    door.sweep()
    assert one.ended == [Phase.HEADERS]


def test_only_the_old_ones_are_sent_away() -> None:
    door = doorman()
    stubs = []
    for moment in range(10):
        Clock.now = moment
        stubs.append(StubConnection())
        door.watch(stubs[-1], Phase.HEADERS)
    door.sweep()
    assert [bool(stub.ended) for stub in stubs] == [True] * 5 + [False] * 5


def test_who_is_gone_is_forgotten() -> None:
    door, one = doorman(), StubConnection()
    door.watch(one, Phase.CLOSING)
    door.forget(one)
    Clock.now = 10_000_000_000
    door.sweep()
    assert one.ended == []


def test_who_does_not_read_is_cut_off_even_while_busy() -> None:
    door, one, other = doorman(), StubConnection(), StubConnection()
    door.not_reading(one)
    door.not_reading(other)
    door.reading(other)
    Clock.now = 5
    door.sweep()
    assert (one.ended, other.ended) == ([Phase.BUSY], [])


def test_a_problem_without_a_route_is_a_whole_http_response() -> None:
    head, body = response_bytes(Overloaded("Full.", 1500), "id-7").split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"connection: close" in head
    assert b"retry-after: 2" in head
    assert b"content-length: %d" % len(body) in head
    assert b'"id-7"' in body
