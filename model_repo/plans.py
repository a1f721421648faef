"""Where compiled TensorRT plans lie, and which one belongs to what. Knows files; must not know TensorRT.

A plan is a cache: it may be deleted at any time and is built again. It belongs to one graph, one TensorRT version and
one GPU, and to the largest batch it was built for; when any of these changes its file bears another name. A file holds
one line of JSON (its key and the plan's SHA-256), then the plan: a torn or foreign one is found out before TensorRT,
which may crash on it, sees a byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

FORMAT = 1


class PlanDamaged(Exception):
    """A plan's file is not what was written; the text names the file and says why, in one line."""


@dataclass(frozen=True)
class PlanKey:
    """What a plan was built from and for.

    Attributes:
        graph: SHA-256 of the stage's ONNX file, as in the manifest.
        runtime: tensorrt | tensorrt-lean | tensorrt-rtx.
        version: of that runtime.
        gpu: name and compute capability, or a word for all that the plan fits.
        max_batch: largest batch.
    """

    graph: str
    runtime: str
    version: str
    gpu: str
    max_batch: int

    @property
    def file_name(self) -> str:
        """`eccd1fd77498-tensorrt-11.4.0.106-nvidia-l4-sm89-32.plan`, and a part of the key's hash."""
        plain = re.sub(r"[^a-z0-9.]+", "-", f"{self.runtime}-{self.version}-{self.gpu}".lower()).strip("-")
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.graph[:12]}-{plain[:80]}-{self.max_batch}-{digest[:8]}.plan"

    @property
    def timing_name(self) -> str:
        """The timing cache that builds for this runtime, version and GPU share."""
        digest = hashlib.sha256(f"{self.runtime}/{self.version}/{self.gpu}".encode()).hexdigest()
        return f"timing-{digest[:12]}.cache"


class PlanFolder:
    """The plans in `<state_dir>/plans`. Several processes may read and write at once: files appear whole."""

    def __init__(self, state_dir: Path) -> None:
        self.folder = state_dir / "plans"

    def path(self, key: PlanKey) -> Path:
        """Where the plan of that key lies, or would."""
        return self.folder / key.file_name

    def read(self, key: PlanKey) -> bytes | None:
        """The plan of that key, or None if there is none. Raises PlanDamaged."""
        path = self.path(key)
        try:
            head, _, plan = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PlanDamaged(f"{path}: {error.strerror or type(error).__name__}") from error
        try:
            said = json.loads(head)
        except ValueError as error:
            raise PlanDamaged(f"{path}: it does not begin with a line of JSON") from error
        if said != _head(key, plan):
            raise PlanDamaged(f"{path}: its bytes are not those that were written")
        return plan

    def write(self, key: PlanKey, plan: bytes) -> None:
        """Keep a plan. A folder that cannot be written is logged: the next start builds again."""
        self._write(self.path(key), json.dumps(_head(key, plan)).encode() + b"\n" + plan)

    def read_timing(self, key: PlanKey) -> bytes:
        """The kept timing cache; empty if there is none."""
        try:
            return (self.folder / key.timing_name).read_bytes()
        except OSError:
            return b""

    def write_timing(self, key: PlanKey, timing: bytes) -> None:
        """Keep a timing cache, as `write` keeps a plan."""
        self._write(self.folder / key.timing_name, timing)

    def _write(self, path: Path, data: bytes) -> None:
        half = path.with_name(f".{path.name}.{os.getpid()}.half")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with half.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            half.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                half.unlink()
            logger.warning("plan cannot be kept", extra={"file": str(path), "reason": str(error)})


def _head(key: PlanKey, plan: bytes) -> dict[str, object]:
    return {"format": FORMAT, **asdict(key), "sha256": hashlib.sha256(plan).hexdigest()}
