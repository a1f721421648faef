"""Query strings -> parameters within their limits."""

from __future__ import annotations

import math
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import Unprocessable
from server.routes.query import Query, QueryParser


def parse(text: str) -> Query:
    return QueryParser(default_ms=1000, max_ms=60_000).parse(text.encode())


def test_defaults() -> None:
    assert parse("") == Query(1000.0, 1_000_000_000, "", None, 1.0)


def test_everything_at_once() -> None:
    query = parse("deadline_ms=12.5&model=a-b.c%402&top_k=3&min_confidence=0.9&unknown=1")
    assert query == Query(12.5, 12_500_000, "a-b.c@2", 3, 0.9)


@pytest.mark.parametrize(
    ("text", "wanted"), [("debug=1", True), ("debug=true", True), ("debug=0", False), ("debug=FALSE", False)]
)
def test_debug_is_yes_or_no(text: str, wanted: bool) -> None:
    assert parse(text).debug is wanted


@pytest.mark.parametrize("text", ["debug=", "debug=2", "debug=yes", "debug=1&debug=0"])
def test_debug_is_nothing_else(text: str) -> None:
    with pytest.raises(Unprocessable):
        parse(text)


@pytest.mark.parametrize("text", ["1", "0.5", ".5", "5.", "1e3", "6E4", "60000", "%2B5", "1e-2"])
def test_deadlines_that_are_taken(text: str) -> None:
    assert 0 < parse(f"deadline_ms={text}").budget_ms <= 60_000


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-1",
        "-0",
        "nan",
        "inf",
        "1e99",
        "1e-99999",
        "abc",
        "",
        "1_0",
        "0x10",
        "1,5",
        "60000.1",
        "%D9%A1",
        " 5",
    ],
)
def test_deadlines_that_are_refused(text: str) -> None:
    with pytest.raises(Unprocessable) as refusal:
        parse(f"deadline_ms={text}")
    assert refusal.value.extra == {"parameter": "deadline_ms"}


@given(st.text(max_size=12))
def test_any_text_is_a_valid_budget_or_refused(text: str) -> None:
    try:
        query = parse(f"deadline_ms={quote(text)}")
    except Unprocessable:
        return
    assert math.isfinite(query.budget_ms)
    assert 0 < query.budget_ms <= 60_000


@given(st.binary(max_size=40))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    try:
        query = QueryParser(1000, 60_000).parse(data)
    except Unprocessable:
        return
    assert 0 < query.budget_ms <= 60_000


def test_the_smallest_deadline_counts() -> None:
    assert parse("deadline_ms=50&deadline_ms=20&deadline_ms=30").budget_ms == 20


def test_the_same_value_twice_is_no_contradiction() -> None:
    assert parse("top_k=2&top_k=2").top_k == 2
    with pytest.raises(Unprocessable):
        parse("top_k=2&top_k=3")


@pytest.mark.parametrize(
    "text", ["top_k=0", "top_k=-1", "top_k=1.0", "top_k=", "top_k=9999999999", "top_k=x"]
)
def test_top_k_that_is_refused(text: str) -> None:
    with pytest.raises(Unprocessable, match="top_k"):
        parse(text)


@pytest.mark.parametrize("text", ["-0.1", "1.01", "nan", "", "x"])
def test_min_confidence_that_is_refused(text: str) -> None:
    with pytest.raises(Unprocessable, match="min_confidence"):
        parse(f"min_confidence={text}")


@pytest.mark.parametrize("text", ["A", "a/b", "..", "a@", "a@0", "a@x", "@1", "a" * 65, "a@1@2"])
def test_model_names_that_are_refused(text: str) -> None:
    with pytest.raises(Unprocessable, match="model"):
        parse(f"model={text}")


def test_the_cache_forgets_rather_than_grows() -> None:
    parser = QueryParser(1000, 60_000)
    for number in range(5000):
        assert parser.parse(b"deadline_ms=%d" % (number + 1)).budget_ms == number + 1
    assert len(parser._cache) <= 1024


def test_a_default_above_the_largest_is_cut() -> None:
    assert QueryParser(default_ms=1000, max_ms=200).parse(b"").budget_ms == 200
