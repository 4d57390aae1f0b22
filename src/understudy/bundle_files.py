"""The files of a bundle, and the revision that names them.

The revision is the first 12 hex digits of the SHA-256 of a `sha256sum` listing of the folder's
files, sorted by path: what is in the files, and nothing else, makes it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from understudy.core.errors import ConfigError

MAX_BYTES: Final = 2 * 1024**3
IGNORED: Final = (
    *("__pycache__", ".git", "*.pyc", ".DS_Store"),
    *("*~", "*.swp", "*.swo", "#*#", ".#*"),  # what editors leave
)


def files_of(folder: Path) -> list[tuple[str, Path]]:
    """(its path in the bundle, where it lies) of every file that counts, in order."""
    root = Path(os.path.realpath(folder))
    try:
        found = sorted(_walk(root, "", (root,)))
        size = sum(path.stat().st_size for _, path in found)
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from None
    if size > MAX_BYTES:
        raise ConfigError(
            f"{folder} has {size / 1024**3:.1f} GiB, a bundle at most 2; have load() fetch the rest"
        )
    return found


def _walk(folder: Path, prefix: str, above: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    for path in folder.iterdir():
        if any(fnmatchcase(path.name, pattern) for pattern in IGNORED):
            continue
        # One spelling of accents: file systems differ in which they keep.
        name = prefix + unicodedata.normalize("NFC", path.name)
        if not name.isprintable() or "\\" in name:
            raise ConfigError(f"rename {name!r} in the bundle: no control characters, no backslash")
        real = Path(os.path.realpath(path))
        if path.is_symlink() and not (real.is_relative_to(above[0]) and real.exists()):
            raise ConfigError(
                f"{path} is a link to {real}, which is not in the bundle; put the file itself there"
            )
        if real.is_file():
            yield name, real
        elif real.is_dir():
            if real in above:
                raise ConfigError(f"{path} links to a folder that it lies in; remove that link")
            yield from _walk(real, f"{name}/", (*above, real))
        else:
            raise ConfigError(f"{path} is neither a file nor a folder; remove it from the bundle")


def revision_of(folder: Path) -> str:
    """12 hex digits that name the folder's contents. Raises ConfigError."""
    listing = hashlib.sha256()
    for name, path in files_of(folder):
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        listing.update(f"{digest}  {name}\n".encode())
    return listing.hexdigest()[:12]


def verify(path: Path, revision: str) -> None:
    """Raises ConfigError if the files no longer are that revision's."""
    if not path.is_dir():
        raise ConfigError(f"the files of revision {revision} are gone from {path}; deploy it again")
    if (found := revision_of(path)) != revision:
        raise ConfigError(
            f"the files in {path} were changed: they hash to {found}, not to {revision}; "
            "remove that folder and deploy again"
        )


def copy_in(folder: Path, revision: str, into: Path) -> Path:
    """Copies a folder to into/REVISION, read-only, whole or not at all; returns that folder.

    Idempotent, also when several processes do it at once. Raises ConfigError.
    """
    target = into / revision
    if target.is_dir():
        verify(target, revision)
        return target
    try:
        into.mkdir(parents=True, exist_ok=True)
        copy = Path(tempfile.mkdtemp(prefix=f".{revision}-", dir=into))
        try:
            copy.chmod(0o755)
            for name, path in files_of(folder):
                _copy(path, copy / name)
            if revision_of(copy) != revision:
                raise ConfigError(f"{folder} changed while it was copied; deploy it again")
            try:
                copy.rename(target)
            except OSError:
                if not target.is_dir():  # by another process, in the meantime
                    raise
        finally:
            shutil.rmtree(copy, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"cannot copy the bundle to {target}: {error.strerror}") from None
    verify(target, revision)
    return target


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as read, target.open("xb") as write:
        shutil.copyfileobj(read, write, 1 << 20)
        write.flush()
        os.fsync(write.fileno())  # the rename must not survive a power cut that this did not
    target.chmod(0o444 | source.stat().st_mode & 0o111)
