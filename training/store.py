"""Decoded images on disk, for data that do not fit the memory: decoded once, read as arrays ever after.

A store is a folder of two arrays and a note of how far it got; a process that was stopped goes on there. Images lie in
a random order, so that parts are slices and nothing is copied. Must not know where images come from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from training.parts import DataError, Part, Pixels

CHUNK = 512
"""Images between two notes of the progress: what a stopped process decodes twice."""

Decoded = Iterator[tuple[str, int, Pixels | str]]
"""(name, label, pixels uint8 [h, w, 3], or the reason why there are none) in the order asked for."""


@dataclass
class _Note:
    """How far a store got."""

    done: int = 0
    kept: int = 0
    skipped: tuple[tuple[str, str], ...] = ()


def stored(
    folder: Path, count: int, side: int, decode: Callable[[Sequence[int]], Decoded]
) -> tuple[Part, tuple[tuple[str, str], ...]]:
    """The images of a store, decoded now where they are not there yet, and (name, reason) of those skipped.

    Args:
        folder: of this store alone; its name must change when the images do.
        count: images in all.
        side: height and width of each.
        decode: decodes the images of the given numbers, 0…count - 1.

    Raises:
        DataError: the disk has no room for them.
    """
    order = np.random.default_rng(0).permutation(count).tolist()
    note = _read_note(folder)
    if note.done < count:
        _make_room(folder, count * side * side * 3)
    images = _array(folder / "images.u8", (count, side, side, 3), np.uint8)
    labels = _array(folder / "labels.i64", (count,), np.int64)
    with tqdm(total=count, initial=note.done, desc="decoding to disk", unit="image", leave=False) as bar:
        decoded = decode(order[note.done :])
        while chunk := list(islice(decoded, CHUNK)):
            _put(chunk, images, labels, note)
            images.flush()
            labels.flush()
            _write_note(folder, note)
            bar.update(len(chunk))
    return _open(folder, note.kept, count, side), note.skipped


def _put(
    chunk: list[tuple[str, int, Pixels | str]],
    images: np.memmap[Any, Any],
    labels: np.memmap[Any, Any],
    note: _Note,
) -> None:
    for name, label, pixels in chunk:
        if isinstance(pixels, str):
            note.skipped += ((name, pixels),)
            continue
        images[note.kept], labels[note.kept] = pixels, label
        note.kept += 1
    note.done += len(chunk)


def _open(folder: Path, kept: int, count: int, side: int) -> Part:
    # Copy-on-write: torch takes writable arrays only, and nobody writes.
    images = np.memmap(folder / "images.u8", np.uint8, "c", shape=(count, side, side, 3))
    labels = np.memmap(folder / "labels.i64", np.int64, "c", shape=(count,))
    return Part(images[:kept], np.array(labels[:kept]))


def _array(path: Path, shape: tuple[int, ...], dtype: type[Any]) -> np.memmap[Any, Any]:
    return np.memmap(path, dtype, "r+" if path.exists() else "w+", shape=shape)


def _make_room(folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    taken = sum(p.stat().st_blocks * 512 for p in folder.iterdir())
    free = shutil.disk_usage(folder).free
    if needed - taken > free:
        raise DataError(
            f"{folder} has room for {free / 1e9:.1f} GB, and the decoded images take {needed / 1e9:.1f} GB: "
            "set XDG_CACHE_HOME to a larger disk"
        )


def _read_note(folder: Path) -> _Note:
    path = folder / "progress.json"
    if not path.exists():
        return _Note()
    values = json.loads(path.read_text())
    return _Note(values["done"], values["kept"], tuple((name, why) for name, why in values["skipped"]))


def _write_note(folder: Path, note: _Note) -> None:
    temporary = folder / "progress.json.part"
    temporary.write_text(json.dumps({"done": note.done, "kept": note.kept, "skipped": note.skipped}))
    temporary.replace(folder / "progress.json")
