"""A device that goes away under the running service."""

from __future__ import annotations

from pathlib import Path

from tests.models import publish_tiny_model
from tests.server.faulty_service import FaultyService


def test_an_engine_that_loses_its_device_says_why_and_ends_and_the_next_one_serves(tmp_path: Path) -> None:
    publish_tiny_model(tmp_path / "models")
    service = FaultyService(tmp_path / "models")
    try:
        engine = service.engine_pid()
        service.faults.set(lose="full")
        status, answer = service.classify(60_000)
        assert status == 200
        assert answer["stages_run"]
        service.wait_for(lambda: service.is_ready() and service.engine_pid() != engine)
        assert service.classify(60_000)[1]["stop_reason"] == "deepest"
        (lost,) = service.said("device lost, ending")
        assert lost["reason"] == "the device fell off the bus"
        (died,) = service.said("died, starting it again")
        assert (died["child"], died["reason"]) == ("engine", "exit status 74")
    finally:
        service.close()
