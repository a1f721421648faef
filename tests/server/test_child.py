"""What the supervisor tells a child arrives whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.child import ENVIRONMENT_KEY, ChildContext, enter
from server.settings import Settings


def test_the_context_survives_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # A variable of the environment must not overrule what the supervisor decided.
    monkeypatch.setenv("ANYTIME_PORT", "1")
    settings = Settings(port=9000, workers=3, models_dir=Path("m"))
    context = ChildContext(
        settings, Path("/run/x"), 42, Path("/run/x/p.json"), 7, 2, "hung", ("m@1 full", "m@1 full")
    )
    assert ChildContext.decode(context.encode()) == context
    assert context.engine_socket == Path("/run/x/engine.sock")


def test_an_engine_has_no_listening_socket() -> None:
    context = ChildContext(Settings(), Path("/r"), 1, Path("/p"))
    assert ChildContext.decode(context.encode()).listen_fd is None


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"settings": 5}'])
def test_what_the_supervisor_did_not_write_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - JSON's and pydantic's errors are ValueErrors too
        ChildContext.decode(text)


def test_started_by_hand_it_says_how_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_KEY, raising=False)
    with pytest.raises(SystemExit, match="python -m server"):
        enter()
