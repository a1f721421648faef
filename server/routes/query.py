"""The parameters of a classification: query string -> numbers within their limits.

Knows names, syntax and limits; must not know models (top_k's upper limit is theirs) or bodies.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from server.errors import Unprocessable

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", re.ASCII)
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}", re.ASCII)
_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}(@[1-9][0-9]{0,8})?", re.ASCII)
_TRUTH = {"1": True, "true": True, "0": False, "false": False}
_CACHED = 1024
_CACHED_LENGTH = 256
_MAX_LENGTH = 4096

DEFAULT_TOP_K = 5


@dataclass(frozen=True, slots=True)
class Query:
    """What a client asked for.

    Attributes:
        budget_ms: time from the headers to the answer.
        budget_ns: the same.
        model: name, name@version, or empty for the default.
        top_k: number of classes; None for the default.
        min_confidence: enough to stop at; 1.0 is never enough.
        debug: whether the answer explains what the scheduler decided.
    """

    budget_ms: float
    budget_ns: int
    model: str
    top_k: int | None
    min_confidence: float
    debug: bool = False


class QueryParser:
    """Parses query strings; equal ones, which are the rule, are parsed once."""

    def __init__(self, default_ms: float, max_ms: float) -> None:
        self._default_ms = min(default_ms, max_ms)
        self._max_ms = max_ms
        self._cache: dict[bytes, Query] = {}

    def known(self, query_string: bytes) -> Query | None:
        """The query of a string that has been parsed before."""
        return self._cache.get(query_string)

    def parse(self, query_string: bytes) -> Query:
        """The query. Unknown parameters are ignored. Raises Unprocessable."""
        known = self._cache.get(query_string)
        if known is not None:
            return known
        query = self._parse(query_string)
        if len(query_string) <= _CACHED_LENGTH:
            if len(self._cache) >= _CACHED:
                self._cache.clear()
            self._cache[query_string] = query
        return query

    def _parse(self, query_string: bytes) -> Query:
        if len(query_string) > _MAX_LENGTH:
            raise Unprocessable(f"The query string may be {_MAX_LENGTH} bytes long.")
        given: dict[str, list[str]] = {}
        for name, value in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
            given.setdefault(name, []).append(value)
        budget_ms = self._budget_ms(given.get("deadline_ms", []))
        return Query(
            budget_ms=budget_ms,
            budget_ns=int(budget_ms * 1e6),
            model=_model(_single(given, "model")),
            top_k=_top_k(_single(given, "top_k")),
            min_confidence=_min_confidence(_single(given, "min_confidence")),
            debug=_debug(_single(given, "debug")),
        )

    def _budget_ms(self, values: list[str]) -> float:
        """The smallest of all that are given; each must be valid."""
        return min((self._one_budget_ms(value) for value in values), default=self._default_ms)

    def _one_budget_ms(self, value: str) -> float:
        number = _number(value)
        if number is None or not 0 < number <= self._max_ms:
            raise Unprocessable(
                f"deadline_ms must be a number above 0 and at most {self._max_ms:g}.", parameter="deadline_ms"
            )
        return number


def _single(given: dict[str, list[str]], name: str) -> str | None:
    values = given.get(name)
    if values is None:
        return None
    if len(set(values)) > 1:
        raise Unprocessable(f"{name} is given more than once, with different values.", parameter=name)
    return values[0]


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


def _model(text: str | None) -> str:
    if text is None:
        return ""
    if not _MODEL.fullmatch(text):
        raise Unprocessable("model must be a name or name@version.", parameter="model")
    return text


def _top_k(text: str | None) -> int | None:
    if text is None:
        return None
    if not _INTEGER.fullmatch(text) or int(text) < 1:
        raise Unprocessable(
            "top_k must be a whole number from 1 to the number of classes.", parameter="top_k"
        )
    return int(text)


def _debug(text: str | None) -> bool:
    if text is None:
        return False
    if text.lower() not in _TRUTH:
        raise Unprocessable("debug must be 0 or 1.", parameter="debug")
    return _TRUTH[text.lower()]


def _min_confidence(text: str | None) -> float:
    if text is None:
        return 1.0
    number = _number(text)
    if number is None or not 0 <= number <= 1:
        raise Unprocessable("min_confidence must be a number from 0 to 1.", parameter="min_confidence")
    return number
