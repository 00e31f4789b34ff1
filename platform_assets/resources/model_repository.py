"""Triton's model repository on disk: complete versions, written once, and the verified policy."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import shutil
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import dagster as dg
import msgspec

from platform_assets.resources import atomic_files
from platform_assets.resources.version_files import (
    DigestMismatch,
    Provenance,
    RepositoryError,
    verify_version,
)
from serving_gateway.contract import (
    CONFIG_FILE,
    MODEL_FILE,
    PROVENANCE_FILE,
    check_model_name,
)

# Triton reads a directory's leading digits as a version, so a staging name starts with a
# letter.
_STAGING_PREFIX: Final = "staging-"

__all__ = [
    "DigestMismatch",
    "ModelRepository",
    "Provenance",
    "RepositoryError",
    "RepositoryNotWritable",
    "VersionConflict",
]


class VersionConflict(RepositoryError):
    """The repository already has the version with different content."""


class RepositoryNotWritable(RepositoryError):
    """The disk is full or not writable by this process; nothing half-written is visible."""


class ModelRepository(dg.ConfigurableResource[None]):
    """The only writer of Triton's model repository.

    A version directory is staged beside its place, fsynced, renamed, and never changed again.
    `config.pbtxt` names the versions that were seen READY, which a restarted Triton loads.
    """

    root: str

    def path(self, model_name: str, version: int) -> Path:
        """Return the directory of a version, existing or not; ValueError for an invalid name."""
        if version < 1:
            raise ValueError(f"version {version}: MLflow versions start at 1")
        return Path(self.root) / check_model_name(model_name) / str(version)

    def package(self, onnx_bytes: bytes, provenance: Provenance) -> bool:
        """Write a version directory; return False if it existed with the same content.

        Raises:
            VersionConflict: the directory holds another model or comes from another run.
            RepositoryNotWritable: the disk is full, or not writable by this process.
            RepositoryError: the bytes are not those that `provenance` names.
        """
        digest = hashlib.sha256(onnx_bytes).hexdigest()
        if digest != provenance.onnx_sha256:
            raise RepositoryError(
                f"refusing to package {provenance.model_name} {provenance.version}: the bytes "
                f"have digest {digest}, the registry recorded {provenance.onnx_sha256}"
            )
        target = self.path(provenance.model_name, provenance.version)
        with _translate_errors(f"write {target}"):
            return self._package(target, onnx_bytes, provenance)

    def _package(self, target: Path, onnx_bytes: bytes, provenance: Provenance) -> bool:
        staging = target.with_name(f"{_STAGING_PREFIX}{provenance.version}-{uuid.uuid4().hex}")
        staging.mkdir(parents=True)
        atomic_files.remove_abandoned(staging.parent, f"{_STAGING_PREFIX}*")
        try:
            atomic_files.write_new(staging / MODEL_FILE, onnx_bytes)
            atomic_files.write_new(staging / PROVENANCE_FILE, msgspec.json.encode(provenance))
            atomic_files.fsync_directory(staging)
            try:
                staging.rename(target)
            except OSError as error:
                # It exists already: its content decides.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                self._same_or_conflict(target, provenance)
                return False
            atomic_files.fsync_directory(target.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return True

    def _same_or_conflict(self, target: Path, provenance: Provenance) -> None:
        try:
            there = self.verify(provenance.model_name, provenance.version)
            same = (there.run_id, there.onnx_sha256) == (provenance.run_id, provenance.onnx_sha256)
            content = f"digest {there.onnx_sha256} of run {there.run_id}"
        except RepositoryError as error:
            same, content = False, str(error)
        if not same:
            raise VersionConflict(
                f"{target} exists already and holds something else ({content}), not digest "
                f"{provenance.onnx_sha256} of run {provenance.run_id}. A version is written once "
                "and stays as it is, so nothing was changed and what was served is still served. "
                "Register a new version, or move that directory away if it is not served."
            )

    def versions(self, model_name: str) -> tuple[int, ...]:
        """Return the versions with a directory, ascending."""
        folder = self._config_path(model_name).parent
        if not folder.is_dir():
            return ()
        return tuple(
            sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal())
        )

    def delete(self, model_name: str, version: int) -> None:
        """Delete a version directory that is not served; it disappears atomically."""
        target = self.path(model_name, version)
        staged = target.with_name(f"{_STAGING_PREFIX}deleted-{version}-{uuid.uuid4().hex}")
        target.rename(staged)
        atomic_files.fsync_directory(target.parent)
        shutil.rmtree(staged, ignore_errors=True)

    def verify(self, model_name: str, version: int) -> Provenance:
        """Re-check a version's bytes against its provenance with `verify_version`."""
        return verify_version(self.path(model_name, version))

    def broken(self, model_name: str, versions: Collection[int]) -> dict[int, str]:
        """Return those of `versions` that fail verification, each with the reason."""
        reasons: dict[int, str] = {}
        for version in versions:
            try:
                self.verify(model_name, version)
            except RepositoryError as error:
                reasons[version] = str(error)
        return reasons

    def persisted_config(self, model_name: str) -> str | None:
        """Return the text of `config.pbtxt`; None if no version was ever seen READY.

        Raises `RepositoryError` if it is not text.
        """
        path = self._config_path(model_name)
        try:
            return path.read_text(encoding="utf-8") if path.exists() else None
        except UnicodeDecodeError as error:
            raise RepositoryError(f"{path} is not text any more: {error}") from error

    def persist_config(self, model_name: str, text: str) -> None:
        """Replace `config.pbtxt` atomically; a restarted Triton loads the versions it names.

        Raises `RepositoryNotWritable`.
        """
        path = self._config_path(model_name)
        with _translate_errors(f"write {path}"):
            # A leading letter, since Triton scans this folder.
            atomic_files.replace_file(path, text.encode(), prefix=_STAGING_PREFIX)

    def _config_path(self, model_name: str) -> Path:
        return Path(self.root) / check_model_name(model_name) / CONFIG_FILE


@contextlib.contextmanager
def _translate_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RepositoryNotWritable(f"cannot {doing}: {error.strerror or error}") from error
