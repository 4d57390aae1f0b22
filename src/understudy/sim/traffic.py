"""Traces: `t_s,user,voice,region,duration_s` as CSV, gzip or not; and made-up ones.

One user twice at once: the second connect takes over, and the first session ends there, as
`takeover` does on the real edge (core/session.py).
"""

from __future__ import annotations

import csv
import gzip
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TextIO

from understudy.core.errors import ConfigError

COLUMNS: Final = ("t_s", "user", "voice", "region", "duration_s")


@dataclass(frozen=True, slots=True)
class Visit:
    """One session of a trace, as it will come to pass."""

    start_s: float
    user: str
    voice: str
    region: str
    end_s: float


def read(path: Path) -> list[Visit]:
    """Raises ConfigError, saying what is wrong and in which line."""
    try:
        opener = gzip.open if _is_gzip(path) else open
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            return take_over(_parse(file, path.name))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _parse(file: Iterable[str], name: str) -> list[Visit]:
    rows = csv.DictReader(file)
    if missing := [c for c in COLUMNS if c not in (rows.fieldnames or ())]:
        raise ConfigError(
            f"{name} has no column {', '.join(missing)}; it needs {','.join(COLUMNS)}"
        )
    visits = []
    for row in rows:
        try:
            start_s, lasts_s = float(row["t_s"]), float(row["duration_s"])
        except (TypeError, ValueError):
            raise ConfigError(f"{name}, line {rows.line_num}: a time is no number") from None
        if not (math.isfinite(start_s) and math.isfinite(lasts_s) and lasts_s >= 0):
            raise ConfigError(f"{name}, line {rows.line_num}: a time is negative or endless")
        if not (row["user"] and row["voice"] and row["region"]):
            raise ConfigError(f"{name}, line {rows.line_num}: user, voice or region is empty")
        visits.append(Visit(start_s, row["user"], row["voice"], row["region"], start_s + lasts_s))
    return visits


def take_over(visits: Sequence[Visit]) -> list[Visit]:
    """In order of connecting, and each user's session cut where the same user's next one begins."""
    ordered = sorted(visits, key=lambda visit: visit.start_s)
    latest: dict[str, int] = {}
    for index, visit in enumerate(ordered):
        before = latest.get(visit.user)
        if before is not None and ordered[before].end_s > visit.start_s:
            ordered[before] = replace(ordered[before], end_s=visit.start_s)
        latest[visit.user] = index
    return ordered


def write(visits: Iterable[Visit], file: TextIO) -> None:
    out = csv.writer(file, lineterminator="\n")
    out.writerow(COLUMNS)
    for v in visits:
        out.writerow((f"{v.start_s:.2f}", v.user, v.voice, v.region, f"{v.end_s - v.start_s:.2f}"))


@dataclass(frozen=True, slots=True)
class Made:
    """A made-up service: who comes how often, and what disturbs it."""

    at_once: float = 20.0  # sessions, on average over the day
    hours: float = 24.0
    seed: int = 1
    voices: tuple[tuple[str, float], ...] = (("miku", 0.68), ("teto", 0.23), ("miku-dev", 0.09))
    regions: tuple[tuple[str, float, float], ...] = (  # name, share, hour of its peak
        ("sf", 0.6, 14.0),
        ("tokyo", 0.4, 16.0),
    )
    swing: float = 0.5  # of the day, around its mean
    noise: float = 0.25  # log standard deviation of a slow wander (half an hour) per pool
    bursts_per_day: float = 24.0  # friends who come within 15 s of each other, 3 to 8
    mobs_per_day: float = 2.0  # one voice is talked about: several times as many for minutes
    mean_s: float = 480.0
    sigma: float = 1.0  # of the logarithm of a session's length


def make(made: Made) -> list[Visit]:
    """A synthetic trace: inhomogeneous Poisson arrivals by thinning, lognormal lengths."""
    rng = random.Random(made.seed)
    length_s = made.hours * 3600.0
    mobs = [
        (
            rng.uniform(0, length_s),
            rng.choice(made.voices)[0],
            rng.uniform(2, 5),
            rng.uniform(120, 600),
        )
        for _ in range(_poisson(rng, made.mobs_per_day * made.hours / 24))
    ]
    starts: list[tuple[float, str, str]] = []
    for voice, voice_share in made.voices:
        for region, region_share, peak_h in made.regions:
            mean_per_s = made.at_once * voice_share * region_share / made.mean_s
            wander = _wander(rng, length_s, made.noise)
            ceiling = mean_per_s * (1 + made.swing) * max(wander) * 6
            t = rng.expovariate(ceiling)
            while t < length_s:
                day = 1 + made.swing * math.cos((t / 3600 - peak_h) / 24 * math.tau)
                rate = mean_per_s * day * wander[int(t // 300)]
                for at, which, factor, fade in mobs:
                    if which == voice and at <= t:
                        rate *= 1 + (factor - 1) * math.exp(-(t - at) / fade)
                if rng.random() * ceiling < rate:
                    starts.append((t, voice, region))
                t += rng.expovariate(ceiling)
    for _ in range(_poisson(rng, made.bursts_per_day * made.hours / 24)):
        at = rng.uniform(0, length_s)
        voice = rng.choices([v for v, _ in made.voices], [s for _, s in made.voices])[0]
        region = rng.choices([r[0] for r in made.regions], [r[1] for r in made.regions])[0]
        starts += [(at + rng.uniform(0, 15), voice, region) for _ in range(rng.randint(3, 8))]
    starts.sort()
    mu = math.log(made.mean_s) - made.sigma**2 / 2
    return [
        Visit(
            round(t, 2),
            f"u{k}",
            v,
            r,
            round(t, 2) + max(5.0, min(4 * 3600.0, round(rng.lognormvariate(mu, made.sigma), 2))),
        )
        for k, (t, v, r) in enumerate(starts)
    ]


def _wander(rng: random.Random, length_s: float, noise: float) -> list[float]:
    """exp of an Ornstein-Uhlenbeck walk in steps of 5 min that forgets in half an hour."""
    keep = math.exp(-300 / 1800)
    level, levels = rng.gauss(0, noise), []
    for _ in range(int(length_s // 300) + 1):
        levels.append(math.exp(level - noise**2 / 2))
        level = level * keep + rng.gauss(0, noise * math.sqrt(1 - keep**2))
    return levels


def _poisson(rng: random.Random, mean: float) -> int:
    """Knuth's method."""
    limit, product, count = math.exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count
