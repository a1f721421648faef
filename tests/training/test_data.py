"""Where labelled images come from, and how they are split."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from training import cifar
from training.cifar import ARCHIVES, Archive
from training.data import load
from training.download import fetch
from training.parts import DataError, Dataset, Part, split


def png(value: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root: Path, splits: tuple[str, ...] = ("train", "test")) -> Path:
    for s in splits or ("",):
        for c in ("cat", "dog"):
            (root / s / c).mkdir(parents=True, exist_ok=True)
            for i in range(5):
                (root / s / c / f"{i}.png").write_bytes(png(10 * i + (c == "dog")))
    return root


def test_an_image_folder_is_read_by_split_with_classes_sorted(tmp_path: Path) -> None:
    data = load(str(folder(tmp_path)), size=16)
    assert data.classes == ("cat", "dog")
    assert data.train.images.shape == data.test.images.shape == (10, 16, 16, 3)
    assert data.train.images[7, 0, 0].tolist() == [21, 0, 0]
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5


def test_a_folder_without_splits_gives_a_tenth_of_its_images_to_the_test(tmp_path: Path) -> None:
    data = load(str(folder(tmp_path, splits=())), size=16)
    assert (len(data.train), len(data.test)) == (9, 1)


def test_a_zip_of_an_image_folder_equals_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = folder(tmp_path / "tree")
    archive = tmp_path / "tree.zip"
    with zipfile.ZipFile(archive, "w") as z:
        for p in root.rglob("*.png"):
            z.write(p, p.relative_to(root))
    fresh, cached, tree = load(str(archive), 16), load(str(archive), 16), load(str(root), 16)
    assert list((tmp_path / "cache" / "anytime").glob("*.npz"))
    for data in (fresh, cached):
        np.testing.assert_array_equal(data.train.images, tree.train.images)
        np.testing.assert_array_equal(data.test.labels, tree.test.labels)


def test_a_corrupt_image_is_named_and_counted_not_dropped_silently(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "train" / "cat" / "2.png").write_bytes(png(0)[:40])
    data = load(str(root), size=16)
    assert len(data.train) == 9
    assert [name for name, _ in data.skipped] == ["train/cat/2.png"]


@pytest.mark.parametrize("classes", [[], ["one"]])
def test_fewer_than_two_classes_are_refused(tmp_path: Path, classes: list[str]) -> None:
    for c in classes:
        (tmp_path / c).mkdir()
        (tmp_path / c / "a.png").write_bytes(png(1))
    with pytest.raises(DataError, match="at least 2"):
        load(str(tmp_path))


def test_data_that_is_not_there_or_no_zip_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data at"):
        load(str(tmp_path / "nothing"))
    (tmp_path / "x.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="no zip archive"):
        load(str(tmp_path / "x.zip"))


def test_digits_are_real_and_split() -> None:
    data = load("digits")
    assert len(data.train) + len(data.test) == 1797
    assert data.input_size == 8
    assert data.classes == tuple("0123456789")


def test_the_parts_of_a_split_share_no_image_and_do_not_depend_on_the_run() -> None:
    images = np.zeros((200, 2, 2, 3), np.uint8)
    data = Dataset("d", ("a", "b"), Part(images, np.arange(200)), Part(images, np.arange(200)))
    one, two = split(data), split(data)
    ids = [set(p.labels.tolist()) for p in (one.train, one.validation, one.calibration)]
    assert [len(i) for i in ids] == [160, 20, 20]
    assert len(set.union(*ids)) == 200
    np.testing.assert_array_equal(one.validation.labels, two.validation.labels)


@pytest.mark.parametrize(("images", "held_out"), [(40, 10), (240, 24), (700, 40), (45_000, 2_250)])
def test_small_data_hold_out_a_larger_share(images: int, held_out: int) -> None:
    part = Part(np.zeros((images, 1, 1, 3), np.uint8), np.arange(images))
    parts = split(Dataset("d", ("a", "b"), part, part))
    assert len(parts.validation) == len(parts.calibration) == held_out
    assert len(parts.train) == images - 2 * held_out


def test_data_of_a_few_images_are_refused() -> None:
    part = Part(np.zeros((39, 1, 1, 3), np.uint8), np.arange(39))
    with pytest.raises(DataError, match="39 images to train on are too few"):
        split(Dataset("d", ("a", "b"), part, part))


# --- official archives, made small ---------------------------------------------------------------------------


def archive_of(kind: str) -> tuple[Archive, bytes]:
    """An archive like the official one, with 3 training and 2 test records, and its description."""
    base = ARCHIVES[kind]
    records = [bytes([9] * (base.label_bytes - 1) + [i % 2]) + bytes([i]) * 3072 for i in range(5)]
    train = {"data_batch_1.bin": records[0] + records[1], "data_batch_2.bin": records[2]}
    if kind == "cifar100":
        train = {"train.bin": b"".join(records[:3])}
    files = {**train, base.test: b"".join(records[3:]), base.names: b"apple\nbear\n"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"cifar/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    content = buffer.getvalue()
    return replace(base, md5=hashlib.md5(content, usedforsecurity=False).hexdigest()), content


@contextmanager
def served(content: bytes, cut: int | None = None) -> Iterator[str]:
    """A file server on this machine that honours ranges; the first answer may be cut short."""

    class Handler(http.server.BaseHTTPRequestHandler):
        cuts: ClassVar = [cut]

        def do_GET(self) -> None:
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            body = content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            stop = self.cuts.pop() if self.cuts else None
            self.wfile.write(body[:stop])

        def log_message(self, *_args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/data.tar.gz"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_an_official_archive_is_downloaded_checked_and_read(kind: str, tmp_path: Path) -> None:
    archive, content = archive_of(kind)
    with served(content) as url:
        data = cifar.load(replace(archive, url=url), tmp_path, download=True)
    assert data.classes == ("apple", "bear")
    assert data.train.labels.tolist() == [0, 1, 0]
    assert data.test.images[:, 0, 0, 0].tolist() == [3, 4]
    again = cifar.load(replace(archive, url=url), tmp_path, download=False)
    np.testing.assert_array_equal(again.train.images, data.train.images)


def test_nothing_is_downloaded_unless_asked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--download"):
        cifar.load(ARCHIVES["cifar10"], tmp_path, download=False)


def test_a_download_that_broke_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    archive, content = archive_of("cifar10")
    path = tmp_path / "data.tar.gz"
    with served(content, cut=100) as url:
        with pytest.raises(DataError):
            fetch(url, path, archive.md5)
        assert not path.exists()
        fetch(url, path, archive.md5)
    assert path.read_bytes() == content


def test_an_archive_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    archive, content = archive_of("cifar10")
    with served(content + b"x") as url, pytest.raises(DataError, match="damaged"):
        fetch(url, tmp_path / "data.tar.gz", archive.md5)
    assert list(tmp_path.iterdir()) == []
