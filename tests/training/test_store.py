"""Decoded images on disk: the same as in memory, resumed where they stopped; SVHN's files; ten crops."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from model_repo.fractalnet import FractalConfig, FractalNet, full
from training import data, store, svhn
from training.evaluate import Pixels, reestimate
from training.imagenet import ten_crop_errors, ten_crops
from training.parts import DataError, Dataset, Part, split
from training.recipe import Recipe
from training.run import Run, RunOptions
from training.store import stored


def decode(numbers: Sequence[int], broken: int = -1) -> store.Decoded:
    for n in numbers:
        yield str(n), n % 3, "broken" if n == broken else np.full((4, 4, 3), n % 251, np.uint8)


def test_a_store_holds_every_image_with_its_label_in_a_random_order(tmp_path: Path) -> None:
    part, skipped = stored(tmp_path / "s", 100, 4, decode)
    values = part.images[:, 0, 0, 0]
    assert sorted(values.tolist()) == list(range(100))
    assert values.tolist() != list(range(100))
    assert part.labels.tolist() == (values % 3).tolist()
    assert skipped == ()
    assert isinstance(part.images, np.memmap)


def test_an_image_that_cannot_be_read_is_named_and_leaves_no_hole(tmp_path: Path) -> None:
    for _ in range(2):  # the second time from the store
        part, skipped = stored(tmp_path / "s", 20, 4, lambda numbers: decode(numbers, broken=7))
        assert skipped == (("7", "broken"),)
        assert sorted(part.images[:, 0, 0, 0].tolist()) == [n for n in range(20) if n != 7]


def test_a_store_that_was_stopped_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CHUNK", 8)
    asked: list[int] = []

    def breaks_off(numbers: Sequence[int]) -> store.Decoded:
        for count, item in enumerate(decode(numbers)):
            if count == 20:
                raise KeyboardInterrupt
            yield item

    def remembers(numbers: Sequence[int]) -> store.Decoded:
        asked.extend(numbers)
        return decode(numbers)

    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path / "s", 50, 4, breaks_off)
    assert json.loads((tmp_path / "s/progress.json").read_text())["done"] == 16
    part, _ = stored(tmp_path / "s", 50, 4, remembers)
    assert len(asked) == 50 - 16
    whole, _ = stored(tmp_path / "t", 50, 4, decode)
    np.testing.assert_array_equal(part.images, whole.images)
    np.testing.assert_array_equal(part.labels, whole.labels)


def test_a_disk_without_room_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="XDG_CACHE_HOME"):
        stored(tmp_path / "s", 10, 10**6, decode)
    assert not (tmp_path / "s" / "images.u8").exists()


def test_parts_of_stored_data_are_slices_that_copy_nothing(tmp_path: Path) -> None:
    part, _ = stored(tmp_path / "s", 400, 4, decode)
    parts = split(Dataset("d", ("a", "b", "c"), part, part, in_random_order=True))
    assert all(np.shares_memory(p.images, part.images) for p in (parts.train, parts.validation))
    values = [p.images[:, 0, 0, 0] for p in (parts.validation, parts.calibration, parts.train)]
    np.testing.assert_array_equal(np.concatenate(values), part.images[:, 0, 0, 0])


def photos(root: Path, count: int, side: int) -> Path:
    draws = np.random.default_rng(0)
    for part in ("train", "val"):
        for label, name in enumerate(("dark", "light")):
            (root / part / name).mkdir(parents=True)
            for i in range(count if part == "train" else 6):
                pixels = (draws.integers(0, 128, (side, side, 3)) + 100 * label).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


def test_a_folder_too_large_for_the_memory_is_read_through_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = photos(tmp_path / "photos", 10, 20)
    (root / "train/dark/3.png").write_bytes(b"rubbish")
    plain = data.load(str(root), 16)
    monkeypatch.setattr(data, "STORE_ABOVE", 0)
    large = data.load(str(root), 16)
    assert large.in_random_order
    assert large.skipped == plain.skipped != ()
    order = np.argsort(large.train.images.reshape(19, -1).sum(1))
    expected = np.argsort(plain.train.images.reshape(19, -1).sum(1))
    np.testing.assert_array_equal(large.train.images[order], plain.train.images[expected])
    np.testing.assert_array_equal(large.train.labels[order], plain.train.labels[expected])


# --- SVHN -----------------------------------------------------------------------------------------------------------


def mat(count: int, first: int) -> bytes:
    """A file like SVHN's: images of one value each, digits counted from 1 to 10."""
    pixels = np.zeros((32, 32, 3, count), np.uint8)
    pixels[:] = np.arange(first, first + count)
    buffer = io.BytesIO()
    savemat(buffer, {"X": pixels, "y": (np.arange(count) % 10 + 1).reshape(-1, 1).astype(np.uint8)})
    return buffer.getvalue()


def official(monkeypatch: pytest.MonkeyPatch, folder: Path) -> svhn.MatFile:
    """Three small files in place of the official ones; the test file's description comes back."""
    folder.mkdir()
    files = {}
    for name, content in (("train", mat(12, 0)), ("extra", mat(3, 100)), ("test", mat(4, 200))):
        (folder / f"{name}_32x32.mat").write_bytes(content)
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        files[name] = svhn.MatFile(f"{name}_32x32.mat", md5)
    sources = {"svhn": (files["train"], files["extra"]), "svhn-small": (files["train"],)}
    monkeypatch.setattr(svhn, "SOURCES", sources)
    return files["test"]


def test_svhn_is_read_with_and_without_its_extra_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = official(monkeypatch, tmp_path / "svhn")
    both = svhn.load("svhn", tmp_path / "svhn", False, test)
    small = svhn.load("svhn-small", tmp_path / "svhn", False, test)
    assert (len(both.train), len(small.train), len(both.test)) == (15, 12, 4)
    assert both.train.images[13].tolist() == np.full((32, 32, 3), 101).tolist()
    assert small.train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert both.classes == tuple("0123456789")


def test_svhn_that_is_absent_or_damaged_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"train_32x32\.mat is not there; --download"):
        svhn.load("svhn", tmp_path, False)
    test = official(monkeypatch, tmp_path / "svhn")
    (tmp_path / "svhn" / "extra_32x32.mat").write_bytes(b"MATLAB")
    with pytest.raises(DataError, match=r"extra_32x32\.mat is damaged"):
        svhn.load("svhn", tmp_path / "svhn", False, test)
    rubbish = b"no matlab file at all" * 20
    (tmp_path / "svhn" / "other.mat").write_bytes(rubbish)
    other = svhn.MatFile("other.mat", hashlib.md5(rubbish, usedforsecurity=False).hexdigest())
    with pytest.raises(DataError, match=r"other\.mat cannot be read"):
        svhn.load("svhn-small", tmp_path / "svhn", False, other)


# --- ten crops ------------------------------------------------------------------------------------------------------


def test_ten_crops_are_corners_and_middle_each_mirrored_too() -> None:
    images = torch.arange(36.0).view(1, 1, 6, 6)
    views = list(ten_crops(images, 4))
    assert len(views) == 10
    assert [v[0, 0, 0, 0].item() for v in views[::2]] == [0, 2, 12, 14, 7]
    for view, mirrored in zip(views[::2], views[1::2], strict=True):
        assert torch.equal(view.flip(3), mirrored)


def test_ten_crop_errors_average_the_softmax_of_all_crops() -> None:
    torch.manual_seed(0)
    config = FractalConfig(2, (4, 6), 10, 8)
    net = FractalNet(config)
    draws = np.random.default_rng(0)
    part = Part(draws.integers(0, 256, (40, 10, 10, 3)).astype(np.uint8), np.arange(40, dtype=np.int64) % 10)
    pixels = Pixels(part, crop=8)
    statistics = reestimate(net, full(config), pixels.batches(part.images))
    found = ten_crop_errors(net, full(config), statistics, part, pixels)
    own = FractalNet(config).eval()
    own.load_state_dict(net.state_dict() | statistics)
    with torch.no_grad():
        mean = sum(own(view).softmax(1) for view in ten_crops(pixels.tensor(part.images, whole=True), 8))
    assert isinstance(mean, torch.Tensor)
    best = mean.topk(5).indices.numpy() == part.labels[:, None]
    assert found == {
        "top1": pytest.approx(1 - best[:, 0].mean()),
        "top5": pytest.approx(1 - best.any(1).mean()),
    }
    assert found["top5"] < found["top1"]


def test_a_recipe_with_a_crop_trains_on_crops_of_stored_images_and_reports_ten_crops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "STORE_ABOVE", 0)
    loaded = data.load(str(photos(tmp_path / "photos", 60, 20)), 20)
    cropped = Recipe(
        "cropped", 2, (4, 6), epochs=2, batch=32, crop=16, image_size=20, net_options={"last_pool": False}
    )
    run = Run(cropped, loaded, 0, RunOptions(tmp_path / "run", precision="float32"))
    assert run.trainer.net.config.input_size == 16
    run.train()
    trained = torch.load(run.finish(), weights_only=True)
    assert set(trained["ten_crop"]) == {"column1", "column2", "full"}
    assert set(trained["ten_crop"]["full"]) == {"top1", "top5"}
    assert trained["ten_crop"]["full"]["top5"] == 0.0
