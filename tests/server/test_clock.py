"""No deadline knows the wall clock: it may jump as it likes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SERVER = Path(__file__).resolve().parents[2] / "server"
WALL = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "asctime", "strftime", "clock_gettime"},
    "datetime": {"now", "utcnow", "today"},
}
# The name of a front end on the engine's socket has to differ from those of earlier lives; log lines bear the date.
ALLOWED = {("app.py", "time_ns"), ("logs.py", "strftime"), ("logs.py", "gmtime")}


def uses_of_the_wall_clock(file: Path) -> set[tuple[str, str]]:
    """(File, name) of each."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in WALL.get(node.value.id, ()):
                found.add((file.name, node.attr))
        elif isinstance(node, ast.ImportFrom) and node.module in WALL:
            found |= {(file.name, alias.name) for alias in node.names if alias.name in WALL[node.module]}
    return found


@pytest.mark.parametrize("file", sorted(SERVER.rglob("*.py")), ids=lambda file: file.name)
def test_no_module_of_the_server_asks_for_the_time_of_day(file: Path) -> None:
    assert uses_of_the_wall_clock(file) <= ALLOWED


def test_the_test_sees_what_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "import time\nfrom time import time_ns\nx = time.time()\ny = time.monotonic()\n"
    )
    assert uses_of_the_wall_clock(tmp_path / "bad.py") == {("bad.py", "time"), ("bad.py", "time_ns")}
