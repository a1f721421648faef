"""Labels follow the sorted class names, images the sorted paths, and bytes are sent as stored."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loadtest.images import read_images
from tests.loadtest.synthetic import CLASSES, noise_images, noise_zip


def test_a_zip_gives_the_stored_bytes_of_its_split(tmp_path: Path) -> None:
    images = read_images(noise_zip(tmp_path / "a.zip"))
    assert images.classes == CLASSES
    assert images.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert [payload[-1] for payload in images.payloads] == images.labels.tolist()
    assert images.names[:2] == ("ant/0000.png", "ant/0001.png")
    assert set(images.media_types) == {"image/png"}


def test_a_directory_gives_the_same_as_its_zip(tmp_path: Path) -> None:
    zipped = noise_zip(tmp_path / "a.zip")
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(tmp_path / "d")
    from_zip, from_directory = read_images(zipped), read_images(tmp_path / "d")
    assert from_zip.names == from_directory.names
    assert from_zip.payloads == from_directory.payloads
    assert np.array_equal(from_zip.labels, from_directory.labels)


def test_png_has_the_same_pixels() -> None:
    images = noise_images(3)
    for before, after in zip(images.payloads, images.as_png().payloads, strict=True):
        with Image.open(io.BytesIO(before)) as a, Image.open(io.BytesIO(after)) as b:
            assert np.array_equal(np.asarray(a), np.asarray(b))


def test_draws_are_uniform_over_all_images_and_follow_the_seed() -> None:
    images = noise_images(12)
    drawn = images.draw(12_000, 3)
    assert np.array_equal(drawn, images.draw(12_000, 3))
    assert np.bincount(drawn, minlength=12) == pytest.approx(np.full(12, 1000), rel=0.15)


def test_what_holds_no_images_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.writestr("train/x/1.png", b"")
    with pytest.raises(ValueError, match="no images"):
        read_images(tmp_path / "e.zip")
    with pytest.raises(FileNotFoundError, match="--images"):
        read_images(tmp_path / "missing.zip")


def test_cifar10_has_ten_thousand_test_images(cifar10_zip: Path) -> None:
    images = read_images(cifar10_zip)
    assert len(images) == 10_000
    assert np.bincount(images.labels).tolist() == [1000] * 10
    assert images.classes[0] == "airplane"
    assert images.media_types[0] == "image/webp"
