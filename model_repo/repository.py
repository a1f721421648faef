"""The folder of published models: <models_dir>/<name>/<version>/{manifest.json, one file per rung, …}.

Knows how a version lies on disk: how it is listed, opened, verified and published. Must not know torch,
nor what the files mean to a runtime. Nothing is executed or unpickled: a model is JSON, ONNX bytes and text.

    RepositoryError
    ├── ModelMissing     no such name or version
    ├── ModelDamaged     it is there and must not be served; says which file and why
    ├── VersionExists    publishing would overwrite
    └── PublishRefused   the parts to be published do not fit together
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from model_repo.manifest import Manifest, Stage

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 64_000_000
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PUBLISHING = re.compile(r"\.publish-(\d+)-[0-9a-f]+")


class RepositoryError(Exception):
    """Something is wrong with a model or a version; the text is one line that an operator can act on."""


class ModelMissing(RepositoryError):
    """There is no such model or version."""


class VersionExists(RepositoryError):
    """The version is already published."""


class PublishRefused(RepositoryError):
    """Files and manifest do not fit together, so nothing was published."""


class ModelDamaged(RepositoryError):
    """A version that must not be served.

    Attributes:
        model: name@version, by its folder.
        file: path of the offending file.
        reason: what is wrong with it.
    """

    def __init__(self, model: str, file: Path, reason: str) -> None:
        super().__init__(f"model {model}: {file}: {reason}")
        self.model = model
        self.file = file
        self.reason = reason


@dataclass(frozen=True)
class PublishedModel:
    """One version whose manifest is valid and whose files all bore its hashes when it was opened."""

    path: Path
    manifest: Manifest

    @property
    def key(self) -> str:
        """name@version: how messages and logs name it."""
        return f"{self.manifest.name}@{self.manifest.version}"

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of its input."""
        return self.manifest.input.height, self.manifest.input.width

    def read(self, stage: Stage) -> bytes:
        """The bytes of a stage's file, verified as they are read: they are what the manifest names.

        Raises ModelDamaged.
        """
        return _read_verified(self.key, self.path, stage)

    def fingerprint(self) -> str:
        """Short hash over the stages' hashes: changes with any weight, not with the manifest's text."""
        digest = hashlib.sha256()
        for stage in self.manifest.stages:
            digest.update(f"{stage.name}:{stage.sha256}\n".encode())
        return digest.hexdigest()[:16]


class Repository:
    """A folder of models. Reads anew at each call; several processes may read and publish at once."""

    def __init__(self, models_dir: Path) -> None:
        self.models_dir = models_dir

    def names(self) -> list[str]:
        """Names with at least one version, sorted."""
        return [name for name in _children(self.models_dir, _NAME) if self.versions(name)]

    def versions(self, name: str) -> list[str]:
        """Versions of `name`, oldest first, by number. Empty if there is no such name."""
        if not _NAME.fullmatch(name):
            return []
        return sorted(_children(self.models_dir / name, _VERSION), key=int)

    def open(self, name: str, version: str = "") -> PublishedModel:
        """The model, verified; without `version` the newest. Raises ModelMissing or ModelDamaged."""
        versions = self.versions(name)
        version = version or (versions[-1] if versions else "")
        if version not in versions:
            there = f"; there is {', '.join(versions)}" if versions else ""
            raise ModelMissing(f"no model {name}@{version or 'any'} in {self.models_dir}{there}")
        model = PublishedModel(self.models_dir / name / version, self._manifest(name, version))
        for stage in model.manifest.stages:
            model.read(stage)
        return model

    def scan(self) -> tuple[list[PublishedModel], list[ModelDamaged]]:
        """Every version that may be served (by name, then oldest first), and every one that may not."""
        good: list[PublishedModel] = []
        bad: list[ModelDamaged] = []
        for name in self.names():
            for version in self.versions(name):
                try:
                    good.append(self.open(name, version))
                except ModelDamaged as error:
                    bad.append(error)
        return good, bad

    def publish(
        self, manifest: Manifest, files: Mapping[str, bytes | Path], *, replace: bool = False
    ) -> PublishedModel:
        """Write a version in one step: a reader sees all of it or nothing, whenever the writer dies.

        Args:
            manifest: names the version and the hashes of its stages' files.
            files: by file name, their bytes or where to copy them from: one per stage, and what else shall
                lie beside them (labels.txt, README.md).
            replace: take an existing version's place. Between the old one's leaving and the new one's coming
                is an instant without either; a writer that dies in it leaves the old one as `.replaced-…`.

        Raises:
            VersionExists: the version is there and `replace` is false.
            PublishRefused: a stage's file is absent or bears another hash, or a file name is not a plain one.
        """
        _check_publishable(manifest, files)
        home = self.models_dir / manifest.name
        target = home / manifest.version
        if target.exists() and not replace:
            raise VersionExists(f"{target} is already published")
        home.mkdir(parents=True, exist_ok=True)
        with _sibling(home) as half:
            for name, source in files.items():
                _write(half / name, source)
            _write(half / MANIFEST, manifest.model_dump_json(indent=1).encode() + b"\n")
            _sync_folder(half)
            model = PublishedModel(half, manifest)
            for stage in manifest.stages:
                _refuse_damage(model, stage)
            _move_into_place(half, target, replace=replace)
        _sync_folder(home)
        return PublishedModel(target, manifest)

    def _manifest(self, name: str, version: str) -> Manifest:
        model = f"{name}@{version}"
        path = self.models_dir / name / version / MANIFEST
        try:
            if path.stat().st_size > MAX_MANIFEST_BYTES:
                raise ModelDamaged(model, path, f"larger than {MAX_MANIFEST_BYTES} bytes")
            manifest = Manifest.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ModelDamaged(model, path, error.strerror or type(error).__name__) from error
        except ValidationError as error:
            raise ModelDamaged(model, path, _first_of(error)) from error
        if (manifest.name, manifest.version) != (name, version):
            raise ModelDamaged(model, path, f"says it is {manifest.name}@{manifest.version}")
        return manifest


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _children(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    try:
        return sorted(
            child.name for child in folder.iterdir() if pattern.fullmatch(child.name) and child.is_dir()
        )
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read_verified(model: str, folder: Path, stage: Stage) -> bytes:
    path = folder / stage.file
    try:
        # The manifest's pattern allows no separators; a symbolic link could still lead out of the folder.
        if not path.resolve(strict=True).is_relative_to(folder.resolve()):
            raise ModelDamaged(model, path, "leads out of the model's folder")
        data = path.read_bytes()
    except OSError as error:
        raise ModelDamaged(model, path, error.strerror or type(error).__name__) from error
    found = hashlib.sha256(data).hexdigest()
    if found != stage.sha256:
        raise ModelDamaged(model, path, f"sha256 is {found[:12]}…, the manifest says {stage.sha256[:12]}…")
    return data


def _first_of(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {first['msg']}{more}" if where else f"{first['msg']}{more}"


def _check_publishable(manifest: Manifest, files: Mapping[str, bytes | Path]) -> None:
    absent = [stage.file for stage in manifest.stages if stage.file not in files]
    if absent:
        raise PublishRefused(f"no file given for {', '.join(absent)}")
    odd = [name for name in files if not _FILE.fullmatch(name) or name == MANIFEST]
    if odd:
        raise PublishRefused(f"not a plain file name: {odd[0]!r}")


def _refuse_damage(model: PublishedModel, stage: Stage) -> None:
    try:
        model.read(stage)
    except ModelDamaged as error:
        raise PublishRefused(f"{stage.file}: {error.reason}") from error


@contextmanager
def _sibling(home: Path) -> Iterator[Path]:
    """A fresh folder beside the versions that no reader takes for one; removed unless it was moved."""
    _remove_abandoned(home)
    half = home / f".publish-{os.getpid()}-{secrets.token_hex(4)}"
    half.mkdir()
    try:
        yield half
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _remove_abandoned(home: Path) -> None:
    for child in home.iterdir():
        match = _PUBLISHING.fullmatch(child.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            shutil.rmtree(child, ignore_errors=True)


def _write(path: Path, source: bytes | Path) -> None:
    with path.open("xb") as file:
        if isinstance(source, Path):
            with source.open("rb") as origin:
                shutil.copyfileobj(origin, file)
        else:
            file.write(source)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_into_place(half: Path, target: Path, *, replace: bool) -> None:
    retired = target.with_name(f".replaced-{target.name}-{secrets.token_hex(4)}")
    if replace and target.exists():
        target.rename(retired)
    try:
        half.rename(target)
    except OSError as error:  # another writer was faster
        raise VersionExists(f"{target} is already published") from error
    shutil.rmtree(retired, ignore_errors=True)
