"""Where images are decoded, and what their errors become."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client import CollectorRegistry

from model_repo.manifest import InputRule
from server.deadlines import Deadlines, TimerfdAlarm
from server.decoding import Decoder, warm_up
from server.errors import NothingInTime, Problem, TooLarge, Unprocessable, UnsupportedMedia
from server.metrics import FrontEndMetrics
from tests.server.conftest import image_bytes

RULE = InputRule(height=32, width=32)
SECOND = 1_000_000_000


def with_decoder(
    use: Callable[[Decoder], Awaitable[None]], max_pixels: int = 50_000_000
) -> CollectorRegistry:
    """Runs `use` with a decoder in a loop; the registry of its metrics."""
    registry = CollectorRegistry()

    async def run() -> None:
        deadlines = Deadlines()
        alarm = TimerfdAlarm(asyncio.get_running_loop(), deadlines.ring)
        deadlines.use(alarm)
        decoder = Decoder(deadlines, FrontEndMetrics(registry).decode, max_pixels)
        try:
            await use(decoder)
        finally:
            decoder.close()
            alarm.close()

    asyncio.run(run())
    return registry


def count(registry: CollectorRegistry, where: str) -> float | None:
    return registry.get_sample_value("anytime_decode_seconds_count", {"where": where})


def in_a_minute() -> int:
    return time.monotonic_ns() + 60 * SECOND


def test_small_images_are_decoded_in_the_loop_and_large_ones_in_a_thread() -> None:
    async def use(decoder: Decoder) -> None:
        assert len(await decoder.decode(image_bytes(), RULE, in_a_minute())) == 32 * 32 * 3
        assert len(await decoder.decode(image_bytes("PNG", 600, 600), RULE, in_a_minute())) == 32 * 32 * 3
        flat = image_bytes("JPEG", 300, 300, quality=5)  # few bytes, many pixels
        assert len(flat) < 100_000
        await decoder.decode(flat, RULE, in_a_minute())

    registry = with_decoder(use)
    assert (count(registry, "loop"), count(registry, "thread")) == (1, 2)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", Unprocessable),
        (b"x" * 200_000, Unprocessable),
        (image_bytes("GIF"), UnsupportedMedia),
        (image_bytes("PNG", 200, 200), TooLarge),
        (image_bytes("PNG", 600, 600), TooLarge),
    ],
)
def test_errors_become_problems_wherever_it_was_decoded(data: bytes, problem: type[Problem]) -> None:
    async def use(decoder: Decoder) -> None:
        with pytest.raises(problem):
            await decoder.decode(data, RULE, in_a_minute())

    with_decoder(use, max_pixels=10_000)


def test_a_large_image_is_waited_for_until_the_deadline_only() -> None:
    async def use(decoder: Decoder) -> None:
        large = image_bytes("PNG", 2000, 2000)
        with pytest.raises(NothingInTime):
            await decoder.decode(large, RULE, time.monotonic_ns() - 1)
        await decoder.decode(large, RULE, in_a_minute())

    with_decoder(use)


def test_somebody_else_s_cancellation_stays_one() -> None:
    async def use(decoder: Decoder) -> None:
        task = asyncio.ensure_future(decoder.decode(image_bytes("PNG", 2000, 2000), RULE, in_a_minute()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with_decoder(use)


def test_warming_up_finds_a_decoder_of_each_type() -> None:
    warm_up()
