"""A front end and a fake engine, both real processes or sockets, for tests of this folder."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.models import publish_tiny_model
from tests.server.fake_engine import FakeEngine
from tests.server.front_end_process import FrontEndProcess


def image_bytes(kind: str = "PNG", height: int = 32, width: int = 32, **options: Any) -> bytes:
    """A random but fixed image."""
    pixels = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def png() -> bytes:
    """A PNG of 32 x 32 pixels."""
    return image_bytes()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model, tiny@1."""
    folder = tmp_path_factory.mktemp("models")
    publish_tiny_model(folder)
    return folder


class Service:
    """A fake engine and a front end that talk to each other."""

    def __init__(self, runtime_dir: Path, models_dir: Path, engine: dict[str, Any], **settings: Any) -> None:
        self.runtime_dir = runtime_dir
        self.engine = FakeEngine(runtime_dir, **engine).start()
        self.front = FrontEndProcess(runtime_dir, models_dir, **settings)

    def restart_engine(self, **changes: Any) -> FakeEngine:
        """Another life of the engine."""
        self.engine.stop()
        self.engine = FakeEngine(self.runtime_dir, **{"epoch": self.engine.epoch + 1, **changes}).start()
        return self.engine

    def close(self) -> None:
        self.front.close()
        self.engine.stop()


@pytest.fixture(scope="module")
def start_service(
    tmp_path_factory: pytest.TempPathFactory, tiny_models: Path
) -> Iterator[Callable[..., Service]]:
    """Starts services that end with the test module."""
    started: list[Service] = []

    def start(engine: dict[str, Any] | None = None, **settings: Any) -> Service:
        models_dir = settings.pop("models_dir", tiny_models)
        service = Service(tmp_path_factory.mktemp("run"), models_dir, engine or {}, **settings)
        started.append(service)
        return service

    yield start
    for service in started:
        service.close()
