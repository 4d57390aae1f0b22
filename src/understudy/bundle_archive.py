"""A bundle's files as one archive and back: a plain tar that the same files always make.

It is read with suspicion: only files are taken, only at clean paths below one folder, and no more
of them, and no larger, than a bundle may have.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from understudy.bundle_files import MAX_BYTES, files_of
from understudy.core.errors import ConfigError

PART_BYTES: Final = 1024 * 1024
MAX_FILES: Final = 20_000
MAX_NAME_BYTES: Final = 4096
MAX_ARCHIVE_BYTES: Final = MAX_BYTES + MAX_FILES * (3 * tarfile.BLOCKSIZE + MAX_NAME_BYTES)
_END: Final = bytes(2 * tarfile.BLOCKSIZE)


class BadArchive(ConfigError):
    """An archive that is broken, or that nobody may have made in good faith."""


class Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


def archive(folder: Path) -> Iterator[bytes]:
    """The archive of a bundle's files, in parts of 1 MiB. Raises ConfigError."""
    files = files_of(folder)
    if len(files) > MAX_FILES:
        raise ConfigError(f"{folder} has {len(files)} files, a bundle at most {MAX_FILES}")
    waiting = bytearray()
    try:
        for piece in _pieces(files):
            waiting += piece
            while len(waiting) >= PART_BYTES:
                yield bytes(waiting[:PART_BYTES])
                del waiting[:PART_BYTES]
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from None
    if waiting:
        yield bytes(waiting)


def archive_bytes(folder: Path) -> int:
    """About how large that is: names over 100 bytes are not counted. Raises ConfigError."""
    sizes = [path.stat().st_size for _, path in files_of(folder)]
    return len(_END) + sum(tarfile.BLOCKSIZE + size + -size % tarfile.BLOCKSIZE for size in sizes)


def _pieces(files: Iterable[tuple[str, Path]]) -> Iterator[bytes]:
    for name, path in files:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            info = tarfile.TarInfo(name)  # of nobody, at no time: nothing but the files counts
            info.size = stat.st_size
            info.mode = 0o444 | stat.st_mode & 0o111
            yield info.tobuf(tarfile.PAX_FORMAT)
            left = info.size
            while left:
                piece = file.read(min(left, PART_BYTES))
                if not piece:
                    raise ConfigError(f"{path} became shorter while it was read; deploy again")
                yield piece
                left -= len(piece)
            yield bytes(-info.size % tarfile.BLOCKSIZE)
    yield _END


def unpack(reader: Reader, folder: Path) -> None:
    """Writes an archive's files below an empty folder. Raises BadArchive and OSError."""
    files, size, name = 0, 0, ""
    while (block := _exactly(reader, tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise BadArchive(f"the archive has a header that cannot be read: {error}") from None
        if info.type == tarfile.XHDTYPE:  # the next file's name, where it is a long one
            name = _long_name(_exactly(reader, _sane(info.size, 2 * MAX_NAME_BYTES)))
            _exactly(reader, -info.size % tarfile.BLOCKSIZE)
            continue
        name, path = "", _place(name or info.name, folder)
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise BadArchive(f"{path.name} in the archive is no file; a bundle has only files")
        files, size = files + 1, size + _sane(info.size, MAX_BYTES)
        if files > MAX_FILES or size > MAX_BYTES:
            raise BadArchive(f"the archive has over {MAX_FILES} files, or {MAX_BYTES} bytes")
        _write(reader, info, path)


def _place(name: str, folder: Path) -> Path:
    """Where a file belongs. Raises BadArchive for what is not plainly below the folder."""
    pure = PurePosixPath(name)
    if (
        not name
        or not name.isprintable()
        or "\\" in name
        or pure.is_absolute()
        or ".." in pure.parts
        or str(pure) != name
        or len(name.encode()) > MAX_NAME_BYTES
    ):
        raise BadArchive(f"the archive has a file at {name[:100]!r}, which is no clean path")
    return folder / pure


def _write(reader: Reader, info: tarfile.TarInfo, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            left = info.size
            while left:
                piece = _exactly(reader, min(left, PART_BYTES))
                file.write(piece)
                left -= len(piece)
            file.flush()
            os.fsync(file.fileno())
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise BadArchive(f"the archive has {path.name} twice") from None
    path.chmod(0o444 | info.mode & 0o111)
    _exactly(reader, -info.size % tarfile.BLOCKSIZE)


def _long_name(records: bytes) -> str:
    """The path of a pax header (POSIX.1-2001): records of "LENGTH KEY=VALUE\\n"."""
    while records:
        digits, _, _ = records.partition(b" ")
        try:
            length = int(digits) if digits.isdigit() and len(digits) < 6 else 0
            key, _, value = records[len(digits) + 1 : length - 1].decode().partition("=")
        except UnicodeDecodeError:
            raise BadArchive("the archive has a name that is no UTF-8") from None
        if not length:
            break
        if key == "path":
            return value
        records = records[length:]
    raise BadArchive("the archive has an extended header without a path")


def _sane(size: int, most: int) -> int:
    if not 0 <= size <= most:
        raise BadArchive(f"the archive has an entry of {size} bytes")
    return size


def _exactly(reader: Reader, size: int) -> bytes:
    """Raises EOFError where the archive ends too early: it was cut off on its way."""
    data = b""
    while len(data) < size:
        piece = reader.read(size - len(data))
        if not piece:
            raise EOFError("the archive was cut off")
        data += piece
    return data
