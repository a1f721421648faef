"""Where images are decoded: small ones at once in the event loop, large ones in a few threads.

Knows what is small and how many may wait; must not know HTTP or what is done with the pixels. A small image costs less
than the way to a thread and back; a large one would hold up every other request of the process.
"""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from prometheus_client import Histogram

from model_repo.images import (
    Header,
    ImageError,
    ImageTooLarge,
    UnsupportedImage,
    check_size,
    decode,
    decode_checked,
    read_header,
)
from model_repo.manifest import InputRule
from server.deadlines import Deadlines
from server.errors import NothingInTime, Overloaded, Problem, TooLarge, Unprocessable, UnsupportedMedia

SMALL_BYTES = 100_000
SMALL_PIXELS = 256 * 256
_MOST_WAITING = 64


def warm_up() -> None:
    """Decodes one image of each type: the very first ones take milliseconds, which no request should pay."""
    pixels = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    for suffix in (".jpg", ".png", ".webp"):
        decode(cv2.imencode(suffix, pixels)[1].tobytes(), InputRule(height=8, width=8))


class Decoder:
    """Decodes for one front end."""

    def __init__(self, deadlines: Deadlines, seconds: Histogram, max_pixels: int) -> None:
        self._deadlines = deadlines
        self._at_once = seconds.labels("loop")
        self._in_thread = seconds.labels("thread")
        self._max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(min(2, os.cpu_count() or 1), thread_name_prefix="decode")
        self._waiting = 0

    async def decode(self, data: bytes, rule: InputRule, due_ns: int) -> bytes:
        """Pixels of one image at the model's size: uint8 height x width x 3, row-major.

        Args:
            data: the file.
            rule: of the model.
            due_ns: when the request's answer has to leave.

        Raises:
            Unprocessable, TooLarge, UnsupportedMedia: what is wrong with it.
            Overloaded: too many large images wait.
            NothingInTime: still not decoded at `due_ns`.
        """
        header = self.small(data)
        if header is not None:
            return self.decode_small(data, header, rule)
        try:
            return await self._in_time(data, rule, due_ns)
        except ImageError as error:
            raise _problem(error) from error

    def small(self, data: bytes) -> Header | None:
        """The header of an image that is small enough for `decode_small`. Raises what `decode` does of its header."""
        if len(data) > SMALL_BYTES:
            return None
        try:
            header = self._header(data)
        except ImageError as error:
            raise _problem(error) from error
        return header if header.width * header.height <= SMALL_PIXELS else None

    def decode_small(self, data: bytes, header: Header, rule: InputRule) -> bytes:
        """As `decode`, at once."""
        start = time.perf_counter()
        try:
            pixels = decode_checked(data, header, rule).tobytes()
        except ImageError as error:
            raise _problem(error) from error
        self._at_once.observe(time.perf_counter() - start)
        return pixels

    def close(self) -> None:
        """Lets the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _header(self, data: bytes) -> Header:
        header = read_header(data)
        check_size(header, self._max_pixels)
        return header

    def _decode_there(self, data: bytes, rule: InputRule) -> bytes:
        start = time.perf_counter()
        pixels = decode_checked(data, self._header(data), rule).tobytes()
        self._in_thread.observe(time.perf_counter() - start)
        return pixels

    async def _in_time(self, data: bytes, rule: InputRule, due_ns: int) -> bytes:
        if self._waiting >= _MOST_WAITING:
            raise Overloaded("Too many large images wait to be decoded.", retry_after_ms=1000)
        self._waiting += 1
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._decode_there, data, rule)
        work.add_done_callback(self._finished)
        alarm = self._deadlines.schedule(due_ns, work.cancel)
        try:
            return await work
        except asyncio.CancelledError:
            if alarm.waiting:  # somebody else's cancellation
                raise
            raise NothingInTime("The image was still being decoded at the deadline.") from None
        finally:
            self._deadlines.cancel(alarm)

    def _finished(self, work: asyncio.Future[bytes]) -> None:
        self._waiting -= 1


def _problem(error: ImageError) -> Problem:
    if isinstance(error, UnsupportedImage):
        return UnsupportedMedia(str(error))
    if isinstance(error, ImageTooLarge):
        return TooLarge(str(error))
    return Unprocessable(str(error))
