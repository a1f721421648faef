"""Problems: every class has its own kind and a proper document."""

from __future__ import annotations

import json
import re

import pytest

from server import errors
from server.errors import Infeasible, MethodNotAllowed, Problem, Unavailable, from_status


def every_class(base: type[Problem] = Problem) -> list[type[Problem]]:
    return [base, *(found for child in base.__subclasses__() for found in every_class(child))]


def test_every_class_has_a_kind_of_its_own_and_stands_in_the_drawing() -> None:
    classes = every_class()
    kinds = [one.kind for one in classes if one != Problem]
    assert len(set(kinds)) == len(kinds)
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))
    assert drawn == {one.__name__ for one in classes} - {"Problem"}


def test_the_drawing_shows_the_statuses() -> None:
    for name, status in re.findall(r"[├└]── (\w+) (\d{3})", errors.__doc__ or ""):
        assert getattr(errors, name).status == int(status)


def test_a_document_has_the_fields_of_rfc_9457_and_error() -> None:
    document = json.loads(errors.Unprocessable("Nonsense.", parameter="top_k").body("id-1"))
    assert document == {
        "type": "urn:anytime:problem:unprocessable",
        "title": "Unprocessable request",
        "status": 422,
        "detail": "Nonsense.",
        "error": "Nonsense.",
        "request_id": "id-1",
        "parameter": "top_k",
    }


@pytest.mark.parametrize(
    ("ms", "seconds", "whole_ms"), [(0, b"1", 1), (1, b"1", 1), (999.5, b"1", 1000), (1001, b"2", 1001)]
)
def test_retry_after_is_whole_seconds_rounded_up(ms: float, seconds: bytes, whole_ms: int) -> None:
    refusal = Unavailable("No.", ms)
    assert refusal.headers() == [(b"retry-after", seconds)]
    assert refusal.extra["retry_after_ms"] == whole_ms


def test_a_refusal_names_the_smallest_feasible_deadline() -> None:
    assert Infeasible("No.", 5, 12.3456).document("")["smallest_feasible_deadline_ms"] == 12.346


def test_the_framework_s_statuses_become_problems() -> None:
    assert isinstance(from_status(405, "No.", "GET"), MethodNotAllowed)
    assert from_status(404, "No.").kind == "not-found"
    teapot = from_status(418, "No.")
    assert (teapot.status, teapot.title) == (418, "I'm a Teapot")
    assert Problem.status == 500


def test_an_unknown_failure_says_nothing_of_itself() -> None:
    assert "request_id" in errors.Internal().detail


def test_one_anew_says_the_same_and_holds_no_frames() -> None:
    first = Infeasible("Not now.", retry_after_ms=5, smallest_feasible_ms=7.5)
    with pytest.raises(Infeasible):
        raise first
    second = first.anew()
    assert (second.__traceback__, second.args) == (None, first.args)
    assert (second.body("id-1"), second.headers()) == (first.body("id-1"), first.headers())
    assert type(second) is Infeasible
