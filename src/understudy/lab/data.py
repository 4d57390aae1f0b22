"""A folder of recordings as a data set: labels, speakers, what is left out, splits, features."""

from __future__ import annotations

import csv as csv_format
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from understudy.core.errors import ConfigError
from understudy.lab import audio
from understudy.lab.frontend import FrontEnd

VALIDATION_SHARE: Final = 0.2
FIELDS: Final = ("label", "speaker", "n")
COMMON: Final = 0.5  # of the labels a guessed speaker has to have spoken

T = TypeVar("T")
Progress = Callable[[str, int, int], None]  # what, done, of
Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Clip:
    """`name`: its path within the data folder; `content`: the SHA-256 of the file."""

    path: Path
    name: str
    label: str
    speaker: str | None
    content: str


@dataclass(frozen=True, slots=True)
class Reject:
    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Dataset:
    folder: Path
    clips: tuple[Clip, ...]
    rejects: tuple[Reject, ...]
    source: str  # how the speakers are known, in words

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(sorted({clip.label for clip in self.clips}))

    @property
    def speakers(self) -> tuple[str, ...]:
        return tuple(sorted({clip.speaker for clip in self.clips if clip.speaker is not None}))

    @property
    def hash(self) -> str:
        """Of every file's content, name, label and speaker, in hexadecimal."""
        return _hash((c.name, c.label, c.speaker or "", c.content) for c in self.clips)


@dataclass(frozen=True, slots=True)
class Split:
    """`by`: "speaker" or "file"; `warnings`: each way in which the figures will flatter."""

    train: tuple[Clip, ...]
    validation: tuple[Clip, ...]
    by: str
    warnings: tuple[str, ...]


def scan(
    folder: Path,
    names: str | None = None,
    csv: Path | None = None,
    *,
    rate_hz: int = 16000,
    progress: Progress | None = None,
) -> Dataset:
    """Reads every recording once; what is unreadable, silent, clipped or too short is left out.

    The label is the name of the folder a file is in. `names` is a pattern of file names without
    their ending, such as "{label}_{speaker}_{n}" (with a "/": of the path within `folder`); `csv`
    a table with the columns path, label, speaker. Raises ConfigError.
    """
    paths = audio.find(folder)
    told, source = _told(folder, paths, names, csv)
    clips: list[Clip] = []
    rejects: list[Reject] = []
    for done, path in enumerate(paths):
        if progress is not None:
            progress("reading", done + 1, len(paths))
        if path not in told:
            reason = "not in the table" if csv else f"its name does not fit {names}"
            rejects.append(Reject(path, reason))
            continue
        try:
            audio.read_fit(path, rate_hz)
        except audio.Unfit as unfit:
            rejects.append(Reject(path, str(unfit)))
            continue
        label, speaker = told[path]
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        clips.append(Clip(path, path.relative_to(folder).as_posix(), label, speaker, content))
    if not clips:
        raise ConfigError(
            f"{folder} holds no recording to learn from ({len(rejects)} left out); put them into "
            "one folder a label, such as data/yes/anna_1.wav"
        )
    return Dataset(folder, tuple(clips), tuple(rejects), source)


def split(
    dataset: Dataset,
    *,
    speakers: Sequence[str] = (),
    by: str = "auto",
    share: float = VALIDATION_SHARE,
    seed: int = 0,
) -> Split:
    """Halves that share no speaker, where speakers are known; else by file, with a warning.

    `speakers`: these validate; else a random `share` of them (of each label's files, by file).
    Raises ConfigError.
    """
    known = dataset.speakers
    if unknown := sorted(set(speakers) - set(known)):
        raise ConfigError(
            f"there is no speaker {', '.join(unknown)} in {dataset.folder}; "
            f"there are {', '.join(known) or 'none that file names tell'}"
        )
    shuffle = np.random.default_rng(seed)
    if by != "file" and (speakers or len(known) >= 2):
        chosen = set(speakers) or _some(known, share, shuffle)
        train = tuple(c for c in dataset.clips if c.speaker not in chosen)
        return _checked(train, tuple(c for c in dataset.clips if c.speaker in chosen), "speaker")
    if by == "speaker":
        raise ConfigError(
            f"{dataset.folder} does not tell two speakers apart; name them with --names "
            "'{label}_{speaker}_{n}' or --csv"
        )
    held: set[Clip] = set()
    for label in dataset.labels:
        held |= _some([c for c in dataset.clips if c.label == label], share, shuffle)
    train = tuple(c for c in dataset.clips if c not in held)
    return _checked(train, tuple(c for c in dataset.clips if c in held), "file")


def features(
    clips: Sequence[Clip],
    frontend: FrontEnd,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[Features]:
    """The normalised log-mel of each clip, [bands, frames]; kept in `cache` for the next time."""
    key = _hash([json.dumps(frontend.as_metadata(), sort_keys=True), *(c.content for c in clips)])
    kept = None if cache is None else cache / f"{key[:32]}.npz"
    if kept is not None and kept.is_file():
        with np.load(kept) as found:
            return list(np.split(found["features"], found["ends"][:-1], axis=1))
    out: list[Features] = []
    for done, clip in enumerate(clips):
        if progress is not None:
            progress("features", done + 1, len(clips))
        out.append(frontend.features(audio.read(clip.path, frontend.rate_hz)))
    if kept is not None and out:
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_name(f"{kept.stem}.{os.getpid()}.npz")
        ends = np.cumsum([one.shape[1] for one in out])
        np.savez(fresh, features=np.concatenate(out, axis=1), ends=ends)
        fresh.replace(kept)
    return out


def cache_dir() -> Path:
    """Where features are kept: $XDG_CACHE_HOME/understudy/features, else under ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "understudy" / "features"


def pattern_of(names: str) -> re.Pattern[str]:
    """The regular expression of a file-name pattern such as "{label}_{speaker}_{n}".

    A field takes as much as it can, the first one first. Raises ConfigError.
    """
    out = ""
    for literal, field in re.findall(r"([^{}]*)(?:\{(\w+)\})?", names):
        out += re.escape(literal)
        if field and field not in FIELDS:
            raise ConfigError(f"--names knows {{label}}, {{speaker}} and {{n}}, not {{{field}}}")
        out += f"(?P<{field}>[^/]+)" if field else ""
    try:
        return re.compile(out)
    except re.error as error:
        raise ConfigError(f"--names {names!r} cannot be used: {error}") from None


def _told(
    folder: Path, paths: Sequence[Path], names: str | None, csv: Path | None
) -> tuple[dict[Path, tuple[str, str | None]], str]:
    if csv is not None:
        return _told_by_table(folder, csv), f"the table {csv.name}"
    if names is not None:
        pattern, deep = pattern_of(names), "/" in names
        told: dict[Path, tuple[str, str | None]] = {}
        for path in paths:
            name = path.relative_to(folder).with_suffix("").as_posix() if deep else path.stem
            if found := pattern.fullmatch(name):
                fields = found.groupdict()
                told[path] = (fields.get("label") or path.parent.name, fields.get("speaker"))
        return told, f"file names, as {names}"
    if flat := [path for path in paths if path.parent == folder]:
        raise ConfigError(
            f"{flat[0].name} is in no folder that says its label; put recordings into one folder "
            "a label, or pass --names '{label}_{speaker}_{n}'"
        )
    guessed = _guess_speakers(paths)
    source = (
        f"file names, up to the first _ (--names says otherwise): {len(set(guessed.values()))}"
        if guessed
        else "nothing: file names do not tell them"
    )
    return {path: (path.parent.name, guessed.get(path)) for path in paths}, source


def _told_by_table(folder: Path, csv: Path) -> dict[Path, tuple[str, str | None]]:
    try:
        with csv.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv_format.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{csv} cannot be read: {error}") from None
    if not rows or "path" not in rows[0]:
        raise ConfigError(f"{csv} needs a first line: path,label,speaker")
    told: dict[Path, tuple[str, str | None]] = {}
    for row in rows:
        path = folder / row["path"]
        told[path] = (row.get("label") or path.parent.name, row.get("speaker") or None)
    return told


def _guess_speakers(paths: Sequence[Path]) -> dict[Path, str]:
    """The part of each name before the first _, where the same ones come up under many labels."""
    firsts = {path: path.stem.partition("_")[0] for path in paths if "_" in path.stem}
    labels = {path.parent.name for path in paths}
    spoken = Counter(first for first, _ in {(f, p.parent.name) for p, f in firsts.items()})
    if len(firsts) < len(paths) or len(spoken) < 2 or len(labels) < 2:
        return {}
    common = sum(n >= COMMON * len(labels) for n in spoken.values())
    return firsts if common >= COMMON * len(spoken) else {}


def _some(items: Sequence[T], share: float, shuffle: np.random.Generator) -> set[T]:
    count = min(len(items) - 1, max(1, round(share * len(items))))
    return {items[at] for at in shuffle.permutation(len(items))[:count]} if count > 0 else set()


def _checked(train: tuple[Clip, ...], validation: tuple[Clip, ...], by: str) -> Split:
    if not train or not validation:
        raise ConfigError("one half of the split is empty: give more recordings or more speakers")
    warnings = []
    both = {c.speaker for c in train} & {c.speaker for c in validation} - {None}
    if both:
        some = ", ".join(sorted(str(s) for s in both)[:5])
        warnings.append(
            f"the split leaks: {len(both)} speakers ({some}…) are heard in training and in "
            "validation, so the figures flatter; leave out --split file"
        )
    elif by == "file":
        warnings.append(
            "the split may leak: nothing tells the speakers, so the same voice may be heard in "
            "training and in validation, and the figures flatter; name speakers with --names "
            "'{label}_{speaker}_{n}' or --csv"
        )
    heard = {c.content for c in train}
    if same := [c.name for c in validation if c.content in heard]:
        warnings.append(
            f"the split leaks: {len(same)} files of validation are in training, too, byte for "
            f"byte (such as {same[0]}); delete the copies"
        )
    if unlearned := {c.label for c in validation} - {c.label for c in train}:
        warnings.append(f"nothing in training says {', '.join(sorted(unlearned))}")
    if nameless := sum(c.speaker is None for c in train) if by == "speaker" else 0:
        warnings.append(
            f"the split may leak: {nameless} clips of training name no speaker, so one of them "
            "may be a voice of validation"
        )
    return Split(train, validation, by, tuple(warnings))


def _hash(parts: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()
