"""Where labelled images come from: ImageFolder trees and zips, scikit-learn's digits, official files.

Images are decoded by the rules that the server uses (model_repo.images). Must not know nets or training.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from model_repo.images import ImageError, decode
from model_repo.manifest import InputRule
from training import cifar, store, svhn
from training.parts import DataError, Dataset, Part, Pixels

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
TRAIN_NAMES, TEST_NAMES = ("train", "training"), ("test", "val", "validation")
MAX_PIXELS = 100_000_000

STORE_ABOVE = 4 << 30
"""Bytes of decoded images above which they are kept on disk and not in memory: ImageNet's are 250 GB."""


def load(source: str, size: int = 32, download: bool = False, test_share: float = 0.1) -> Dataset:
    """The data set called `source`.

    Args:
        source: `digits`; `cifar10`, `cifar100`, `svhn` or `svhn-small`, the official files under data/; or an
            ImageFolder directory or zip: [split/]class/image. Without a test split, `test_share`
            of the images, chosen by a fixed seed, become the test part.
        size: height and width that images are brought to.
        download: fetch an official archive that is not there.

    Raises:
        DataError: nothing usable is there.
    """
    if source == "digits":
        return _digits()
    if source in cifar.ARCHIVES:
        return cifar.load(cifar.ARCHIVES[source], Path("data"), download)
    if source in svhn.SOURCES:
        return svhn.load(source, Path("data/svhn"), download)
    path = Path(source)
    if not path.exists():
        raise DataError(f"no data at {source}")
    files = _zip_files(path) if path.is_file() else _folder_files(path)
    return _image_folder(path, files, InputRule(height=size, width=size), test_share)


# --- ImageFolder ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """One image of a tree: its path as parts, and how to read it."""

    parts: tuple[str, ...]
    read: Callable[[], bytes] = field(repr=False)
    stamp: str = ""  # changes when the file does; a zip's files go by the archive's

    @property
    def name(self) -> str:
        return "/".join(self.parts)


def _folder_files(root: Path) -> list[_File]:
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    return [_File(p.relative_to(root).parts, p.read_bytes, _stamp(p)) for p in paths]


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _zip_files(path: Path) -> list[_File]:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no zip archive: {error}") from error
    names = sorted(n for n in archive.namelist() if Path(n).suffix.lower() in SUFFIXES)
    return [_File(tuple(n.split("/")), lambda n=n: archive.read(n)) for n in names]  # type: ignore[misc]


def _image_folder(path: Path, files: list[_File], rule: InputRule, test_share: float) -> Dataset:
    files = [f for f in files if len(f.parts) >= 2]
    classes = tuple(sorted({f.parts[-2] for f in files}))
    if len(classes) < 2:
        raise DataError(f"{path}: found {len(classes)} class folders with images, at least 2 are needed")
    train, test = _by_split(files, test_share)
    skipped: list[tuple[str, str]] = []
    on_disk = len(files) * rule.height * rule.width * 3 > STORE_ABOVE
    read = _stored if on_disk else _cached
    parts = [read(path, list(part), classes, rule, skipped) for part in (train, test)]
    return Dataset(path.stem, classes, parts[0], parts[1], tuple(skipped), in_random_order=on_disk)


def _by_split(files: list[_File], test_share: float) -> tuple[list[_File], list[_File]]:
    test = [f for f in files if len(f.parts) >= 3 and f.parts[-3].lower() in TEST_NAMES]
    if test:
        chosen = {f.name for f in test}
        return [f for f in files if f.name not in chosen], test
    order = np.random.default_rng(0).permutation(len(files))
    cut = max(1, int(len(files) * test_share))
    return [files[i] for i in sorted(order[cut:])], [files[i] for i in sorted(order[:cut])]


def _cached(
    path: Path, files: list[_File], classes: tuple[str, ...], rule: InputRule, skipped: list[tuple[str, str]]
) -> Part:
    """Decode `files`, or take the arrays that an earlier call left in the user's cache for an unchanged zip."""
    if not path.is_file():
        return _decode_all(files, classes, rule, skipped)
    cache = _cache_folder() / f"{_key(path, files, rule)}.npz"
    if cache.exists():
        with np.load(cache) as arrays:
            return Part(arrays["images"], arrays["labels"])
    before = len(skipped)
    part = _decode_all(files, classes, rule, skipped)
    if len(skipped) == before:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache.with_suffix(f".{os.getpid()}.npz")
        np.savez(temporary, images=part.images, labels=part.labels)
        temporary.replace(cache)
    return part


def _stored(
    path: Path, files: list[_File], classes: tuple[str, ...], rule: InputRule, skipped: list[tuple[str, str]]
) -> Part:
    """The images of `files` in an array on disk, decoded there now or by an earlier call."""
    index = {name: i for i, name in enumerate(classes)}

    def decoded(numbers: Sequence[int]) -> store.Decoded:
        for file, pixels in _decoded([files[n] for n in numbers], rule):
            yield file.name, index[file.parts[-2]], pixels

    part, left_out = store.stored(_cache_folder() / _key(path, files, rule), len(files), rule.height, decoded)
    skipped.extend(left_out)
    return part


def _key(path: Path, files: list[_File], rule: InputRule) -> str:
    """A name for decoded images that changes with the files, their place and the rule."""
    stamp = _stamp(path) if path.is_file() else ""
    names = hashlib.sha256("\n".join(f"{f.name} {f.stamp}".rstrip() for f in files).encode()).hexdigest()
    key = hashlib.sha256(f"{path.resolve()} {stamp} {rule} {names}".encode()).hexdigest()
    return f"{path.stem}-{key[:16]}"


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "anytime"


def _decode_all(
    files: list[_File], classes: tuple[str, ...], rule: InputRule, skipped: list[tuple[str, str]]
) -> Part:
    index = {name: i for i, name in enumerate(classes)}
    images = np.empty((len(files), rule.height, rule.width, 3), np.uint8)
    labels = np.empty(len(files), np.int64)
    kept = 0
    for file, pixels in tqdm(
        _decoded(files, rule), total=len(files), desc="decoding", unit="image", leave=False
    ):
        if isinstance(pixels, str):
            skipped.append((file.name, pixels))
            continue
        images[kept], labels[kept] = pixels, index[file.parts[-2]]
        kept += 1
    return Part(images[:kept], labels[:kept])


def _decoded(files: list[_File], rule: InputRule) -> Iterator[tuple[_File, Pixels | str]]:
    """Every file with its pixels, or with the reason why it has none."""

    def one(file: _File) -> Pixels | str:
        try:
            return decode(file.read(), rule, MAX_PIXELS)
        except (ImageError, OSError, zipfile.BadZipFile) as error:
            return str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), store.CHUNK):  # a bounded number of images waits to be taken
            chunk = files[start : start + store.CHUNK]
            yield from zip(chunk, pool.map(one, chunk), strict=True)


# --- scikit-learn's digits ----------------------------------------------------------------------------------------


def _digits() -> Dataset:
    """1 797 real 8x8 digits that scikit-learn ships; every fifth is for the test."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow to import, seldom needed

    digits = load_digits()
    grey = np.round(digits.images * 255 / 16).astype(np.uint8)
    everything = Part(np.repeat(grey[..., None], 3, axis=3), digits.target.astype(np.int64))
    order = np.arange(len(everything))
    return Dataset(
        "digits",
        tuple(str(d) for d in range(10)),
        everything.take(order[order % 5 != 0]),
        everything.take(order[order % 5 == 0]),
    )
