"""How a worker comes by the files of its model: from this machine, else from the edge, by hash.

What was fetched is kept in $XDG_CACHE_HOME/understudy/bundles (~/.cache if that is not set), a
folder a revision. Beside each lie two locks (flock: the system lets go of them whatever becomes
of the process): REVISION.lock is held by all that use the folder, until they end, and by nobody
else where it is removed; REVISION.fetch by the one that fetches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import http.client
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from understudy.bundle_archive import MAX_ARCHIVE_BYTES, BadArchive, unpack
from understudy.bundle_files import verify
from understudy.core.errors import ConfigError, ProviderFailed
from understudy.seams import Clock

log = logging.getLogger(__name__)

TRIES: Final = 6
FIRST_PAUSE_S: Final = 0.5  # before the second try; each is twice the last
SILENCE_S: Final = 30.0  # of an edge that is asked: then it is given up
CACHE_GB: Final = 20.0  # $UNDERSTUDY_CACHE_GB
_GB: Final = 1e9
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_REVISION: Final = re.compile(r"[0-9a-f]{12,64}")
_BROKEN: Final = (OSError, http.client.HTTPException, EOFError)
_REFUSED: Final = {
    401: "the edge does not take this worker for one of its own",
    403: "the edge does not let this worker have its files",
    404: "the fleet's store has no such bundle; `understudy deploy` its folder again",
}


@dataclass(frozen=True, slots=True)
class Source:
    """The edge that a worker dials, and who the worker is. `url`: of the link, ws:// or wss://."""

    url: str
    node: str
    secret: str


async def fetch(
    spec: Mapping[str, Any], source: Source, clock: Clock, cache: Cache | None = None
) -> Path:
    """The folder of the spec's bundle, with just the files that its revision names.

    Raises ConfigError, saying what to do, and ProviderFailed if the edge cannot be reached.
    """
    revision = spec["bundle"]
    given = Path(spec.get("path") or os.devnull)
    wrong: ConfigError | None = None
    if await asyncio.to_thread(given.is_dir):
        try:
            await asyncio.to_thread(verify, given, revision)
        except ConfigError as error:
            wrong = error
            log.warning("%s; asking the edge for them", error.message)
        else:
            return given
    try:
        return await (cache or Cache.of_user()).get(revision, source, clock)
    except (ConfigError, ProviderFailed) as error:
        if wrong is None:
            raise
        raise ConfigError(f"{wrong.message}; nor were they to be had elsewhere: {error}") from error


class Cache:
    """Bundles on this machine, `limit_bytes` of them at most; what is in use is never removed."""

    def __init__(self, folder: Path, limit_bytes: float) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes

    @classmethod
    def of_user(cls) -> Cache:
        """Raises ConfigError."""
        chosen = os.environ.get("UNDERSTUDY_CACHE_GB") or CACHE_GB
        try:
            limit_gb = float(chosen)
        except ValueError:
            limit_gb = -1.0
        if not limit_gb > 0:
            raise ConfigError(f"UNDERSTUDY_CACHE_GB must be gigabytes above 0, not {chosen!r}")
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return cls(Path(home) / "understudy" / "bundles", limit_gb * _GB)

    async def get(self, revision: str, source: Source, clock: Clock) -> Path:
        """The folder of a revision, held for as long as this process lives."""
        if not _REVISION.fullmatch(revision):
            raise ConfigError(f"{revision[:80]!r} is no revision of a bundle")
        target = self._folder / revision
        held: list[int] = []
        try:
            await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
            for kind in ("lock", "fetch"):
                path = self._folder / f"{revision}.{kind}"
                held.append(os.open(path, os.O_RDWR | os.O_CREAT, 0o644))
            used, fetching = held
            while True:
                await asyncio.to_thread(fcntl.flock, used, fcntl.LOCK_SH)
                if await asyncio.to_thread(_is_sound, target, revision):
                    os.utime(used)  # when it was last wanted
                    os.close(fetching)
                    return target
                fcntl.flock(used, fcntl.LOCK_UN)
                await asyncio.to_thread(fcntl.flock, fetching, fcntl.LOCK_EX)
                if not await asyncio.to_thread(_is_sound, target, revision):
                    await self._download(revision, target, source, clock)
                fcntl.flock(fetching, fcntl.LOCK_UN)
        except BaseException as error:
            for lock in held:
                os.close(lock)
            if isinstance(error, OSError):
                raise ConfigError(self._trouble(error)) from error
            raise

    def _trouble(self, error: OSError) -> str:
        if error.errno in _FULL:
            return (
                f"the disk of {self._folder} is full; free some of it, or set XDG_CACHE_HOME to a "
                "folder on a larger one"
            )
        return f"the cache {self._folder} cannot be used: {error.strerror}; set XDG_CACHE_HOME"

    async def _download(self, revision: str, target: Path, source: Source, clock: Clock) -> None:
        """Fetches it, whole or not at all; nobody else does."""
        pause_s = FIRST_PAUSE_S
        for tries_left in reversed(range(TRIES)):
            try:
                await asyncio.to_thread(self._download_once, revision, target, source)
                return
            except _BROKEN as error:
                if isinstance(error, OSError) and error.errno in _FULL:
                    raise
                words = str(error) or type(error).__name__
                if not tries_left:
                    raise ProviderFailed(
                        f"bundle {revision} cannot be fetched from the edge: {words}"
                    ) from error
                log.warning("bundle %s broke off (%s); asking again", revision, words)
            await clock.sleep(pause_s)
            pause_s *= 2

    def _download_once(self, revision: str, target: Path, source: Source) -> None:
        _remove(target)  # what is there is broken
        for left_behind in self._folder.glob(f".{revision}-*"):  # by a process that was killed
            _remove(left_behind)
        with _asked(revision, source) as (answer, size):
            self._make_room(revision, size)
            log.info("bundle %s comes from the edge: %.1f MB", revision, size / 1e6)
            folder = Path(tempfile.mkdtemp(prefix=f".{revision}-", dir=self._folder))
            try:
                unpack(answer, folder)
                while answer.read(65536):  # to its end
                    pass
                try:
                    verify(folder, revision)
                except ConfigError:
                    raise BadArchive(
                        f"what the edge sent is not revision {revision}; it was thrown away, and "
                        "nothing of it was run: `understudy deploy` the bundle again"
                    ) from None
                folder.chmod(0o755)
                folder.rename(target)
            finally:
                _remove(folder)

    def _make_room(self, revision: str, size: int) -> None:
        """Removes what was wanted longest ago, and nobody holds, until `size` bytes more fit."""
        locks = [lock for lock in self._folder.glob("*.lock") if lock.stem != revision]
        there = {lock: _bytes_of(self._folder / lock.stem) for lock in locks}
        excess = sum(there.values()) + size - self._limit_bytes
        for lock in sorted(locks, key=lambda lock: lock.stat().st_mtime):
            self._drop_remains(lock)
            if there[lock] and excess > 0 and self._drop(lock):
                excess -= there[lock]
        free = shutil.disk_usage(self._folder).free
        if size > free:
            raise OSError(errno.ENOSPC, f"{size} bytes are wanted, {free} are free")

    def _drop(self, lock: Path) -> bool:
        """Whether the bundle was removed: not if somebody holds it."""
        with _alone(lock) as ours:
            if ours:
                _remove(lock.with_suffix(""))
                log.info("bundle %s made room in the cache", lock.stem)
        return ours

    def _drop_remains(self, lock: Path) -> None:
        """Removes what a download that was killed left."""
        if remains := list(self._folder.glob(f".{lock.stem}-*")):
            with _alone(lock.with_suffix(".fetch")) as ours:
                for folder in remains if ours else []:
                    _remove(folder)


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    """Holds a lock for a moment, if nobody else does."""
    file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(file)


@contextlib.contextmanager
def _asked(revision: str, source: Source) -> Iterator[tuple[http.client.HTTPResponse, int]]:
    """The edge's answer, and how many bytes it is to have."""
    url = urlsplit(source.url)
    kind = {"wss": http.client.HTTPSConnection, "ws": http.client.HTTPConnection}[url.scheme]
    connection = kind(url.netloc, timeout=SILENCE_S)
    try:
        connection.request(
            "GET",
            f"/v1/bundles/{quote(revision, safe='')}?node={quote(source.node, safe='')}",
            headers={"Authorization": f"Bearer {source.secret}"},
        )
        answer = connection.getresponse()
        if answer.status in _REFUSED:
            raise ConfigError(f"bundle {revision}: {_REFUSED[answer.status]}")
        size = answer.length
        if answer.status != 200 or size is None:
            raise http.client.HTTPException(f"the edge answered {answer.status}")
        if size > MAX_ARCHIVE_BYTES:
            raise BadArchive(f"bundle {revision} is said to have {size} bytes, which none may")
        yield answer, size
    finally:
        connection.close()


def _is_sound(folder: Path, revision: str) -> bool:
    if not folder.is_dir():
        return False
    try:
        verify(folder, revision)
    except ConfigError as error:
        log.warning("%s", error.message)
        return False
    return True


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
