"""What `make` does before it installs anything."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OLD_PYTHON = """#!/bin/sh
# Python 3.9 as far as a Makefile can see: -c CODE runs under a changed sys.version_info.
shift
exec python3 -c "import sys; sys.version_info = (3, 9, 2, 'final', 0)
$1"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what the Makefile reads and no virtual environment."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "constraints", tmp_path / "constraints")
    for source in ("deploy/compile.py", "server/compiled.py"):
        (tmp_path / source).parent.mkdir()
        shutil.copy(ROOT / source, tmp_path / source)
    return tmp_path


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
    return subprocess.run(
        ["make", "-C", str(folder), *arguments],
        check=False,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_serving_listens_on_loopback_at_8000_unless_told_otherwise(checkout: Path) -> None:
    assert "-m server --host 127.0.0.1 --port 8000" in make(checkout, "-n", "serve").stdout


def test_serving_honours_port_and_host(checkout: Path) -> None:
    printed = make(checkout, "-n", "serve", "PORT=9000", "HOST=0.0.0.0").stdout
    assert "-m server --host 0.0.0.0 --port 9000" in printed


def test_serving_honours_the_settings_own_variables(checkout: Path) -> None:
    printed = make(checkout, "-n", "serve", ANYTIME_PORT="9000", ANYTIME_HOST="0.0.0.0").stdout
    assert "-m server --host 0.0.0.0 --port 9000" in printed


def test_serving_installs_hashed_pins_and_no_other_group(checkout: Path) -> None:
    printed = make(checkout, "-n", "serve").stdout
    assert "--require-hashes -r constraints/serve.txt" in printed
    assert "--editable" not in printed
    assert "torch" not in printed


def test_what_compiles_the_policy_is_installed_by_its_hashes_too(checkout: Path) -> None:
    assert "--require-hashes -r constraints/compile.txt" in make(checkout, "-n", "serve").stdout
    assert "compile.txt" not in make(checkout, "-n", "train").stdout


def test_training_does_not_install_what_only_tests_need(checkout: Path) -> None:
    printed = make(checkout, "-n", "train").stdout
    assert "'.[train]'" in printed


def test_a_group_is_installed_again_when_its_pins_change(checkout: Path) -> None:
    stamp = checkout / ".venv" / ".serve"
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").touch()
    stamp.touch()
    stamp.with_name(".compiled").touch()
    os.utime(checkout / "constraints" / "serve.txt", (1, 1))
    assert "pip" not in make(checkout, "-n", "serve").stdout
    os.utime(stamp, (0, 0))
    assert "--require-hashes" in make(checkout, "-n", "serve").stdout


def test_an_old_python_is_named_and_nothing_is_made(checkout: Path) -> None:
    old = checkout / "old-python"
    old.write_text(OLD_PYTHON)
    old.chmod(0o755)
    done = make(checkout, "serve", f"PYTHON={old}")
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert "Python 3.9" in done.stderr
    assert not (checkout / ".venv").exists()
