"""Augmentation in batch."""

from __future__ import annotations

import torch

from training.augment import Extent, augment, normalise

IMAGES = torch.arange(2 * 3 * 32 * 32, dtype=torch.float32).reshape(2, 3, 32, 32) + 1


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_normalised_pixels_have_mean_zero_and_deviation_one() -> None:
    pixels = torch.randint(0, 256, (50, 8, 8, 3), dtype=torch.uint8, generator=generator())
    flat = pixels.reshape(-1, 3).float() / 255
    out = normalise(pixels, flat.mean(0), flat.std(0))
    assert out.shape == (50, 3, 8, 8)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


def test_none_changes_nothing() -> None:
    assert augment(IMAGES, "none", generator()) is IMAGES


def test_every_image_is_a_shifted_and_perhaps_mirrored_copy_padded_with_the_mean() -> None:
    seen = set()
    for seed in range(30):
        for before, after in zip(IMAGES, augment(IMAGES, "+", generator(seed)), strict=True):
            padded = torch.nn.functional.pad(before, (4, 4, 4, 4))
            found = [
                (y, x, flip)
                for y in range(9)
                for x in range(9)
                for flip in (False, True)
                if torch.equal(after.flip(2) if flip else after, padded[:, y : y + 32, x : x + 32])
            ]
            assert len(found) == 1
            seen.add(found[0])
    assert len(seen) > 40
    assert {flip for *_, flip in seen} == {False, True}


def test_plus_plus_pads_by_reflection_so_no_pixel_is_the_mean() -> None:
    assert all((augment(IMAGES, "++", generator(s)) > 0).all() for s in range(20))
    assert any((augment(IMAGES, "+", generator(s)) == 0).any() for s in range(20))


def test_a_crop_is_taken_at_a_random_place_and_from_the_middle_without_augmentation() -> None:
    places = set()
    for seed in range(20):
        for before, after in zip(IMAGES, augment(IMAGES, "+", generator(seed), crop=28), strict=True):
            found = [
                (y, x, flip)
                for y in range(5)
                for x in range(5)
                for flip in (False, True)
                if torch.equal(after.flip(2) if flip else after, before[:, y : y + 28, x : x + 28])
            ]
            assert len(found) == 1
            places.add(found[0])
    assert len(places) > 20
    assert torch.equal(augment(IMAGES, "none", generator(), crop=28), IMAGES[:, :, 2:30, 2:30])


def test_cutout_sets_one_square_of_every_image_to_the_mean() -> None:
    places = set()
    for seed in range(20):
        for image in augment(IMAGES, "none", generator(seed), cutout=8):
            gone = (image == 0).all(0)
            rows, columns = gone.any(1).nonzero().flatten(), gone.any(0).nonzero().flatten()
            assert gone.sum() == len(rows) * len(columns)
            assert 4 <= len(rows) <= 8
            assert 4 <= len(columns) <= 8
            places.add((int(rows[0]), int(columns[0])))
    assert len(places) > 30


def test_a_share_of_a_batch_is_augmented_as_within_the_whole() -> None:
    whole = augment(IMAGES, "+", generator(), cutout=4)
    parts = [
        augment(IMAGES[i : i + 1], "+", generator(), cutout=4, extent=Extent(i, len(IMAGES))) for i in (0, 1)
    ]
    assert torch.equal(torch.cat(parts), whole)
