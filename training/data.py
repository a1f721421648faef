"""Where labelled images come from: ImageFolder trees and zips, scikit-learn's digits, the official CIFAR archives.

Images are decoded by the rules that the server uses (model_repo.images). Must not know nets or training.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from model_repo.images import ImageError, decode
from model_repo.manifest import InputRule
from training import cifar
from training.parts import DataError, Dataset, Part, Pixels

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
TRAIN_NAMES, TEST_NAMES = ("train", "training"), ("test", "val", "validation")
MAX_PIXELS = 100_000_000


def load(source: str, size: int = 32, download: bool = False, test_share: float = 0.1) -> Dataset:
    """The data set called `source`.

    Args:
        source: `digits`; `cifar10` or `cifar100`, the official archive under data/; or an ImageFolder
            directory or zip: [split/]class/image. Without a test split, `test_share`
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

    @property
    def name(self) -> str:
        return "/".join(self.parts)


def _folder_files(root: Path) -> list[_File]:
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    return [_File(p.relative_to(root).parts, p.read_bytes) for p in paths]


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
    parts = [_cached(path, list(part), classes, rule, skipped) for part in (train, test)]
    return Dataset(path.stem, classes, parts[0], parts[1], tuple(skipped))


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
    stat = path.stat()
    names = hashlib.sha256("\n".join(f.name for f in files).encode()).hexdigest()
    key = hashlib.sha256(
        f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {rule} {names}".encode()
    ).hexdigest()
    cache = _cache_folder() / f"{path.stem}-{key[:16]}.npz"
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
        yield from zip(files, pool.map(one, files), strict=True)


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
