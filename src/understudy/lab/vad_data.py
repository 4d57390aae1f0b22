"""A folder to learn voice activity from: speech in noise, and where in it somebody speaks.

OUT/train/*.flac, OUT/validation/*.flac   clips at 16 kHz
OUT/segments.csv                          path,start_s,end_s: speech, by the energy before mixing
OUT/dataset.json                          how it was made, and whom to name
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
from numpy.typing import NDArray

from understudy.core.errors import ConfigError
from understudy.lab import audio, noise, vad_speech

RATE_HZ: Final = 16000
HOP: Final = 160
CLIP_S: Final = 8.0
HELD_OUT: Final = 3  # one speaker, and one recording of noise, in so many is never trained with
BELOW_PEAK_DB: Final = 33.0  # quieter frames of a clean recording are no speech
FLOOR_DBFS: Final = -62.0
GAP_FRAMES: Final = 15  # shorter pauses are within a word or between two
BURST_FRAMES: Final = 5
WITHOUT_SPEECH: Final = 0.25  # of clips
WITHOUT_NOISE: Final = 0.1
SNR_DB: Final = (-5.0, 30.0)
VALIDATION: Final = 0.15

Audio = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sources:
    """`credits`: whom to name for `speech` and `noise`, as their licences ask."""

    speech: tuple[Path, ...] = ()
    noise: tuple[Path, ...] = ()
    credits: tuple[str, ...] = ()
    synthetic: float = 0.5  # of speech and of noise, where there are recordings, too


@dataclass(slots=True)
class _Room:
    speech: list[list[Path]] = field(default_factory=list)  # by speaker
    voices: list[str] = field(default_factory=list)
    noise: list[Path] = field(default_factory=list)


def build(
    out: Path,
    sources: Sources,
    *,
    minutes: float = 60.0,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> int:
    """Writes the folder; returns how many clips it holds. Raises ConfigError."""
    if (out / "segments.csv").exists():
        raise ConfigError(f"{out} holds a data set already; choose another folder")
    rooms = _rooms(sources)
    count = max(10, round(minutes * 60 / CLIP_S))
    validated = max(2, round(VALIDATION * count))
    rows: list[tuple[str, float, float]] = []
    for part, clips in (("train", count - validated), ("validation", validated)):
        (out / part).mkdir(parents=True, exist_ok=True)
        for number in range(clips):
            chance = np.random.default_rng([seed, number, part == "train"])
            mixed, speech = _clip(rooms[part], sources.synthetic, chance)
            name = f"{part}/{number:05}.flac"
            soundfile.write(out / name, mixed, RATE_HZ)
            rows += [(name, begin, end) for begin, end in segments(speech)]
            progress(part, number + 1, clips)
    with (out / "segments.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "start_s", "end_s"))
        writer.writerows(rows)
    about = {
        "clips": count,
        "clip_s": CLIP_S,
        "rate_hz": RATE_HZ,
        "seed": seed,
        "credits": list(sources.credits),
        "synthesis": "espeak-ng (speech), understudy.lab.noise (noise)",
    }
    (out / "dataset.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return count


def halves(groups: Sequence[str]) -> tuple[set[str], set[str]]:
    """(trained with, held out): one in HELD_OUT of the sorted names is held out."""
    names = sorted(set(groups))
    held = set(names[HELD_OUT - 1 :: HELD_OUT])
    return set(names) - held, held


def speakers_of(folder: Path) -> dict[str, list[Path]]:
    """The recordings of a folder of speech by speaker: the first folder of each path."""
    found: dict[str, list[Path]] = {}
    for path in audio.find(folder):
        found.setdefault(path.relative_to(folder).parts[0], []).append(path)
    return found


def noises_of(folder: Path) -> dict[str, list[Path]]:
    """The recordings of a folder of noise, by what they were cut from (1-4-A and 1-4-B are one)."""
    found: dict[str, list[Path]] = {}
    for path in audio.find(folder):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        whole = stem[:-2] if len(stem) > 2 and stem[-2] == "-" and stem[-1].isalpha() else stem
        found.setdefault(whole, []).append(path)
    return found


def speech_frames(clean: Audio, hop: int = HOP) -> NDArray[np.bool_]:
    """Where a clean recording has speech, [frames]: by energy, short pauses filled."""
    frames = len(clean) // hop
    power = np.square(clean[: frames * hop], dtype=np.float64).reshape(frames, hop).mean(axis=1)
    level = 10 * np.log10(np.convolve(power, np.ones(3) / 3, "same") + 1e-12)
    peak = np.quantile(level, 0.95) if frames else 0.0
    active = level > max(peak - BELOW_PEAK_DB, FLOOR_DBFS)
    active = ~_without_runs(~active, GAP_FRAMES)
    return _without_runs(active, BURST_FRAMES)


def segments(active: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Runs of speech in seconds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    seconds = np.round(edges * HOP / RATE_HZ, 3).tolist()
    return list(zip(seconds[0::2], seconds[1::2], strict=True))


def read_segments(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Raises ConfigError where the folder is none of ours."""
    try:
        with (folder / "segments.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        raise ConfigError(
            f"{folder} has no segments.csv; `understudy train vad-data {folder}` makes it"
        ) from None
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        found.setdefault(row["path"], []).append((float(row["start_s"]), float(row["end_s"])))
    return found


def mix(speech: Audio, sound: Audio, snr_db: float, active: NDArray[np.bool_]) -> Audio:
    """Speech in noise: the ratio is of the frames with speech to all of the noise."""
    frames = np.repeat(active, HOP)[: len(speech)]
    heard = speech[: len(frames)][frames]
    loud = float(np.mean(np.square(heard, dtype=np.float64))) if len(heard) else 1e-3
    level = float(np.mean(np.square(sound, dtype=np.float64))) + 1e-12
    scaled = sound * np.float32(np.sqrt(loud / level * 10 ** (-snr_db / 10)))
    return np.asarray(speech + scaled, np.float32)


def _rooms(sources: Sources) -> dict[str, _Room]:
    rooms = {"train": _Room(), "validation": _Room()}
    parts = ("train", "validation")
    for part, names in zip(parts, halves(vad_speech.voices()), strict=True):
        rooms[part].voices = sorted(names)
    for folder in sources.speech:
        speakers = speakers_of(folder)
        for part, names in zip(parts, halves(list(speakers)), strict=True):
            rooms[part].speech += [speakers[name] for name in sorted(names)]
    for folder in sources.noise:
        recordings = noises_of(folder)
        for part, names in zip(parts, halves(list(recordings)), strict=True):
            rooms[part].noise += [path for name in sorted(names) for path in recordings[name]]
    return rooms


def _clip(
    room: _Room, synthetic: float, chance: np.random.Generator
) -> tuple[Audio, NDArray[np.bool_]]:
    samples = int(CLIP_S * RATE_HZ)
    speech, active = np.zeros(samples, np.float32), np.zeros(samples // HOP, bool)
    spoken = chance.random() >= WITHOUT_SPEECH
    if spoken:
        speech, active = _talk(room, synthetic, samples, chance)
    if spoken and chance.random() < WITHOUT_NOISE:
        mixed = speech + np.float32(10 ** (chance.uniform(-80, -50) / 20)) * np.asarray(
            chance.standard_normal(samples), np.float32
        )
    else:
        mixed = mix(
            speech, _noise(room, synthetic, samples, chance), chance.uniform(*SNR_DB), active
        )
    gain = 10 ** (chance.uniform(-30, 0) / 20) / max(1e-6, float(np.abs(mixed).max()))
    return np.asarray(mixed * gain, np.float32), active


def _talk(
    room: _Room, synthetic: float, samples: int, chance: np.random.Generator
) -> tuple[Audio, NDArray[np.bool_]]:
    """Utterances of one speaker, with pauses between them."""
    out, active = np.zeros(samples, np.float32), np.zeros(samples // HOP, bool)
    recorded = bool(room.speech) and chance.random() >= synthetic
    speaker = room.speech[int(chance.integers(len(room.speech)))] if recorded else []
    voice = room.voices[int(chance.integers(len(room.voices)))]
    at = int(chance.uniform(0, 2.0) * RATE_HZ) // HOP * HOP
    while at < samples - RATE_HZ // 2:
        if recorded:
            heard = audio.read(speaker[int(chance.integers(len(speaker)))], RATE_HZ)
            length = int(chance.uniform(1.0, 5.0) * RATE_HZ)
            begin = int(chance.integers(0, max(1, len(heard) - length)))
            one, spoken = heard[begin : begin + length], speech_frames(heard)
            spoken = spoken[begin // HOP :]
        else:
            one = vad_speech.say(voice, chance, RATE_HZ)
            spoken = speech_frames(one)
        one = one[: samples - at] / max(1e-3, float(np.abs(one).max()))
        out[at : at + len(one)] += np.float32(0.5) * one
        frames = min(len(one) // HOP, len(spoken), len(active) - at // HOP)
        active[at // HOP : at // HOP + frames] |= spoken[:frames]
        at += (len(one) + int(chance.uniform(0.2, 2.5) * RATE_HZ)) // HOP * HOP
    return out, active


def _noise(room: _Room, synthetic: float, samples: int, chance: np.random.Generator) -> Audio:
    if not room.noise or chance.random() < synthetic:
        kind = noise.KINDS[int(chance.integers(len(noise.KINDS)))]
        return noise.synthesise(kind, samples, RATE_HZ, chance)
    heard = audio.read(room.noise[int(chance.integers(len(room.noise)))], RATE_HZ)
    times = -(-samples // len(heard))
    whole = np.tile(heard, times + 1)
    begin = int(chance.integers(0, len(heard)))
    return np.asarray(whole[begin : begin + samples], np.float32)


def _without_runs(active: NDArray[np.bool_], shorter: int) -> NDArray[np.bool_]:
    """Runs of True under `shorter` frames become False."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    out = active.copy()
    for begin, end in zip(edges[0::2], edges[1::2], strict=True):
        if end - begin < shorter:
            out[begin:end] = False
    return out
