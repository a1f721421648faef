"""The committed JSON Schema is the one the code checks by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model_repo.__main__ import main
from model_repo.manifest import json_schema

SCHEMA = Path(__file__).resolve().parents[2] / "model_repo" / "manifest.schema.json"


def test_the_committed_schema_is_current() -> None:
    assert json.loads(SCHEMA.read_text()) == json_schema()


def test_the_command_line_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == SCHEMA.read_text()
