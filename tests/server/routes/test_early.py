"""Refusing at the end of the headers: what is not plain goes the long way."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from model_repo.repository import Repository
from server.catalog import Catalog
from server.errors import Infeasible
from server.metrics import FrontEndMetrics
from server.routes.early import EarlyRefusal
from server.routes.query import QueryParser
from server.routes.request import RequestIds
from server.tally import Tally
from tests.server.parts import MS, SECOND, Parts

ROUTE = "/classify"


def early(catalog: Any) -> EarlyRefusal:
    """At the door of a front end that has just refused somebody."""
    parts = Parts()
    parts.engine_is_ready(first_ns=100 * MS)
    with pytest.raises(Infeasible):
        parts.door.check(parts.model, 0, 50 * MS)
    parser = QueryParser(1000.0, 60_000.0)
    for query_string in (b"", b"deadline_ms=50"):
        parser.parse(query_string)
    desk: Any = SimpleNamespace(
        catalog=catalog or SimpleNamespace(resolve=lambda _: parts.model),
        door=parts.door,
        parser=parser,
        ids=RequestIds(),
        clock=lambda: parts.clock.now,
    )
    tally = Tally(FrontEndMetrics(CollectorRegistry()), parts.lag)
    return EarlyRefusal(desk, tally, [ROUTE], access_log=False)


def test_what_cannot_be_in_time_is_refused() -> None:
    refused = early(None)(b"/classify?deadline_ms=50", [(b"x-request-id", b"7")], 0, "")
    assert not isinstance(refused, bool)
    status, headers, _ = refused
    assert status == 503
    assert (b"x-request-id", b"7") in headers


def test_what_has_time_is_taken_on() -> None:
    assert early(None)(b"/classify", [], 0, "") is True


@pytest.mark.parametrize("url", [b"/classify?deadline_ms=49", b"/models", b"/classify/other"])
def test_what_was_never_seen_goes_the_long_way(url: bytes) -> None:
    assert early(None)(url, [], 0, "") is False


def test_a_model_that_cannot_be_served_is_told_by_the_route(tmp_path: Path) -> None:
    assert early(Catalog(Repository(tmp_path)))(b"/classify?deadline_ms=50", [], 0, "") is False


def test_after_a_moment_without_refusals_nobody_is_looked_at() -> None:
    assert early(None)(b"/classify?deadline_ms=50", [], SECOND, "") is False
