"""Makes machine code of the policy, where there is a C compiler and Python's headers: python deploy/compile.py

With mypyc, which compiles annotated Python as it is. Called by make and by the Dockerfile; whatever is missing is told,
and the policy runs from its sources.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from server.compiled import SHARED, folder, sources


def missing() -> str:
    """What there would have to be; empty if there is all."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if not shutil.which(compiler):
        return f"no C compiler ({compiler})"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "no Python.h (Debian and Ubuntu: python3-dev)"
    return ""


def build(place: Path) -> None:
    """Raises whatever mypy, setuptools or the compiler do, SystemExit among it."""
    from mypyc.build import mypycify  # noqa: PLC0415 - installed only where there is a compiler
    from setuptools import setup  # noqa: PLC0415

    place.parent.mkdir(parents=True, exist_ok=True)
    # Alone in a folder: the project's own settings are none of its business.
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch, contextlib.chdir(scratch):
        engine = Path("server/engine")
        engine.mkdir(parents=True)
        for package in (engine.parent, engine):
            (package / "__init__.py").touch()
        for source in sources():
            shutil.copy(source, engine)
        files = sorted(map(str, engine.glob("[!_]*.py")))
        # What is installed beside must not matter: in the image's build numpy is not.
        options = ["--no-site-packages", "--ignore-missing-imports", "--follow-imports=silent"]
        # More optimisation by the compiler gains nothing here, and takes longer.
        modules = mypycify([*options, *files], opt_level="1", group_name=SHARED)
        arguments = ["--quiet", "build_ext", "--build-lib", "built", "--build-temp", "objects"]
        setup(name=SHARED, ext_modules=modules, script_args=arguments)
        for old in place.parent.iterdir():
            if old.name != Path(scratch).name:
                shutil.rmtree(old, ignore_errors=True)
        Path("built").rename(place)


def main() -> int:
    """Exit status. With --check: 0 if there is something to do."""
    place, checking = folder(), "--check" in sys.argv
    if place is None or place.is_dir():
        return int(checking)
    if lacking := missing():
        print(
            f"The policy is not compiled: {lacking}. It runs from its sources; decisions take three times as long."
        )
        return int(checking)
    if checking:
        return 0
    try:
        build(place)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, the service does without
        print(
            f"The policy could not be compiled: {error!r}. "
            "It runs from its sources; decisions take three times as long."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
