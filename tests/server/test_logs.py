"""Log lines are JSON."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

from server.logs import JsonFormatter


def line(**fields: object) -> dict[str, object]:
    record = logging.LogRecord("a.b", logging.WARNING, "f.py", 1, "hello %s", ("you",), None)
    vars(record).update(fields)
    parsed: dict[str, object] = json.loads(JsonFormatter("frontend").format(record))
    return parsed


def test_a_line_has_its_fields_and_what_was_added() -> None:
    parsed = line(request_id="r-1", path=object)
    assert (parsed["level"], parsed["logger"], parsed["message"]) == ("warning", "a.b", "hello you")
    assert (parsed["process"], parsed["request_id"]) == ("frontend", "r-1")
    assert "class" in str(parsed["path"])
    assert str(parsed["time"]).endswith("Z")


def test_new_lines_cannot_forge_a_line() -> None:
    record = logging.LogRecord("a", logging.INFO, "f", 1, "one\ntwo", (), None)
    assert "\n" not in JsonFormatter("x").format(record)


def test_a_traceback_is_one_field() -> None:
    try:
        raise ValueError("secret of the server")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    parsed = json.loads(JsonFormatter("x").format(record))
    assert "secret of the server" in parsed["traceback"]


def test_everything_goes_to_standard_error_from_the_level_on() -> None:
    script = (
        "import logging, warnings; from server.logs import configure; configure('info', 'test');"
        "logging.getLogger('a').debug('no'); logging.getLogger('a').info('yes'); warnings.warn('odd')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    messages = [json.loads(text)["message"] for text in done.stderr.splitlines()]
    assert done.stdout == ""
    assert messages[0] == "yes"
    assert "odd" in messages[1]
    assert len(messages) == 2
