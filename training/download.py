"""Official archives: fetched only when the user asks, resumed where a try broke off, checked by their checksum.

Knows files and addresses; must not know what is in them.
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from training.parts import DataError

CHUNK = 1 << 20


def obtain(url: str, path: Path, md5: str, download: bool) -> None:
    """Make sure that `path` is the file at `url`.

    Raises:
        DataError: it is not there and `download` is false, cannot be fetched, or is not the official one.
    """
    if not path.exists():
        if not download:
            raise DataError(f"{path} is not there; --download fetches it from {url}")
        fetch(url, path, md5)
    check(path, md5)


def fetch(url: str, path: Path, md5: str) -> None:
    """Download `url` to `path`, going on where an earlier try stopped; the file appears only when its checksum fits.

    Raises DataError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - a constant of this module
    try:
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            resumed = response.status == 206
            total = int(response.headers.get("Content-Length", 0)) + (have if resumed else 0)
            with (
                part.open("ab" if resumed else "wb") as out,
                tqdm(total=total, unit="B", unit_scale=True) as bar,
            ):
                bar.update(have if resumed else 0)
                while chunk := response.read(CHUNK):
                    out.write(chunk)
                    bar.update(len(chunk))
    except (urllib.error.URLError, OSError) as error:
        raise DataError(f"cannot download {url}: {error}; what came is kept in {part}") from error
    try:
        check(part, md5)
    except DataError:
        part.unlink()
        raise
    part.replace(path)


def check(path: Path, md5: str) -> None:
    """Raise DataError unless the file has that MD5, the checksum its publisher gives."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != md5:
        raise DataError(
            f"{path} is damaged: its MD5 is {digest.hexdigest()}, not {md5}; delete it to fetch it again"
        )
