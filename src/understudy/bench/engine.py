"""Owns the benchmark of the pitch engine: accuracy, latency, invariance, moves, clicks, CPU."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from understudy.bench.engine_measures import (
    Signal,
    formant_shift,
    lag_samples,
    nearest_formants_hz,
    sharpest_bend,
    snr_db,
    speech_error,
    tone_error_cents,
    trusted_f0_of,
)
from understudy.bench.speech import VOWELS, speech, vowel
from understudy.config import parse, template
from understudy.models.pitch import PitchModel

RATES: Final = (16000, 24000, 48000)
SHIFTS: Final = (4, 7, -5)
BLOCKS: Final = (1, 7, 160, 240, 441, 1024, 4800)
VOICES: Final = {  # as they ship
    voice.name: voice.params
    for voice in parse(template(), "understudy.toml").voices.values()
    if voice.model == "pitch"
}
TONES_HZ: Final = (90.0, 123.4, 180.0, 246.9, 330.0, 440.0)


def shifted(signals: Sequence[Signal], rate: int, params: Mapping[str, float]) -> list[Signal]:
    """Each signal through a slot of one model, in 10 ms blocks, its latency cut off."""
    model = PitchModel(slots=len(signals), sample_rate=rate, frame=rate // 100)
    model.load("cpu")
    for slot in range(len(signals)):
        model.open(slot, params)
    late, frame = model.latency_samples, model.frame
    blocks = -(-(max(map(len, signals)) + late) // frame)
    held = np.zeros((len(signals), blocks * frame), np.float32)
    for row, signal in zip(held, signals, strict=True):
        row[: len(signal)] = signal
    active = np.ones(len(signals), np.bool_)
    out = np.concatenate(
        [model.step(held[:, n * frame : (n + 1) * frame], active) for n in range(blocks)], axis=1
    )
    return [row[late : late + len(one)] for row, one in zip(out, signals, strict=True)]


def stream(signal: Signal, rate: int, frame: int, params: Mapping[str, float]) -> Signal:
    """The raw output, late by the latency, of one slot fed `frame` samples at a time."""
    model = PitchModel(slots=1, sample_rate=rate, frame=frame)
    model.load("cpu")
    model.open(0, params)
    blocks = -(-len(signal) // frame)
    held = np.zeros(blocks * frame, np.float32)
    held[: len(signal)] = signal
    active = np.ones(1, np.bool_)
    return np.concatenate(
        [model.step(one[None], active)[0] for one in held.reshape(blocks, frame)]
    )[: len(signal)]


def rubber_band(signals: Sequence[Signal], rate: int, semitones: float, finer: bool) -> Any:
    """(outputs, CPU share, latency in samples) of Rubber Band live in 10 ms blocks.

    Engine R3 or R2, each with its short window, formants preserved. The outputs are lined up by
    the delay it declares; the latency is the smallest with which no block would come too late.
    """
    rb = importlib.import_module("pylibrb")
    option = rb.Option
    chosen = option.PROCESS_REALTIME | option.FORMANT_PRESERVED | option.PitchHighConsistency
    chosen |= option.ENGINE_FINER if finer else option.ENGINE_FASTER
    chosen |= option.WINDOW_SHORT | option.THREADING_NEVER
    frame, outputs, spent, heard, late = rate // 100, [], 0.0, 0, 0
    for signal in signals:
        engine = rb.RubberBandStretcher(rate, 1, chosen, 1.0, 2 ** (semitones / 12))
        engine.set_max_process_size(frame)
        pad, delay = engine.get_preferred_start_pad(), engine.get_start_delay()
        padded = np.concatenate([np.zeros(pad, np.float32), signal, np.zeros(rate, np.float32)])
        parts, made = [], 0
        start = time.process_time()
        for at in range(0, len(padded) - frame, frame):
            engine.process(padded[None, at : at + frame], False)
            ready = engine.available()
            if ready > 0:
                part = np.asarray(engine.retrieve(ready), np.float32).reshape(-1)
                parts.append(part.copy())
                made += part.size
            late = max(late, at + frame - pad - (made - delay))
        spent += time.process_time() - start
        heard += len(padded)
        outputs.append(np.concatenate(parts)[delay : delay + len(signal)])
    return outputs, spent / (heard / rate), late


def vowel_formants(quick: bool) -> dict[str, float]:
    """How far, in percent, shifted vowels' formants lie from those of vowels made at that f0.

    Vowels at 110, 150 and 220 Hz, +-4 semitones; both sides are heard by the same ears, since
    what these say of a vowel depends on its f0 (`ears_median` is their own error).
    """
    off: dict[str, list[float]] = {"f1": [], "f2": [], "f3": []}
    ears: list[float] = []
    for name, known in VOWELS.items():
        for f0 in (150.0,) if quick else (110.0, 150.0, 220.0):
            for semitones in (4, -4):
                out = shifted([vowel(name, f0, 0.5, 24000)], 24000, {"pitch": semitones})[0]
                ideal = vowel(name, f0 * 2 ** (semitones / 12), 0.5, 24000)
                got = nearest_formants_hz(out[4800:-2400], 24000, known[:3])
                best = nearest_formants_hz(ideal[4800:-2400], 24000, known[:3])
                ears += [100 * abs(a / b - 1) for a, b in zip(best, known[:3], strict=True)]
                for key, a, b in zip(off, got, best, strict=True):
                    off[key].append(100 * abs(a / b - 1))
    result = {"ears_median_percent": float(np.nanmedian(ears))}
    for key, found in off.items():
        result[f"{key}_median_percent"] = float(np.nanmedian(found))
        result[f"{key}_p90_percent"] = float(np.nanpercentile(found, 90))
    return result


def latency(rate: int, voiced: Signal) -> dict[str, Any]:
    """Where an impulse comes out, and where the envelope of shifted speech fits best, in ms."""
    declared = PitchModel(sample_rate=rate).latency_samples
    click = np.zeros(rate // 2, np.float32)
    click[rate // 4] = 0.5
    impulse = int(np.abs(stream(click, rate, rate // 100, {"pitch": 4})).argmax()) - rate // 4
    out = stream(np.r_[voiced, np.zeros(rate // 5, np.float32)], rate, rate // 100, {"pitch": 4})
    return {
        "declared_ms": 1000 * declared / rate,
        "impulse_ms": 1000 * impulse / rate,
        "envelope_ms": 1000 * lag_samples(voiced, out, rate) / rate,
    }


def cpu_percent(rate: int, slots: int, voices: Sequence[Signal]) -> float:
    """CPU time of this process, percent of one core a stream, the five voices mixed; best of 3."""
    model = PitchModel(slots=slots, sample_rate=rate, frame=rate // 100)
    model.load("cpu")
    for slot in range(slots):
        model.open(slot, list(VOICES.values())[slot % len(VOICES)])
    frame = model.frame
    n = min(map(len, voices)) // frame
    batch = np.stack([voices[slot % len(voices)][: n * frame] for slot in range(slots)])
    blocks = [np.ascontiguousarray(batch[:, k * frame : (k + 1) * frame]) for k in range(n)]
    active = np.ones(slots, np.bool_)
    spent = []
    for _ in range(3):
        start = time.process_time()
        for block in blocks:
            model.step(block, active)
        spent.append(time.process_time() - start)
    return 100 * min(spent) / (n * frame / rate) / slots


def moved_snr_db(signals: Sequence[Signal], rate: int, params: Mapping[str, float]) -> list[float]:
    """For each second cut: a slot primed with the last context_s against the one that stayed."""
    model = PitchModel(sample_rate=rate, frame=rate // 100)
    context, step = round(model.context_s * rate), model.alignment_samples
    context -= context % step
    found = []
    for signal in signals:
        whole = stream(signal, rate, rate // 100, params)
        for cut in range(context + rate // 2, len(signal) - rate // 2, rate // 2):
            start = (cut - context) // step * step
            primed = stream(signal[start : cut + rate], rate, rate // 100, params)
            found.append(snr_db(whole[cut : cut + rate], primed[cut - start :]))
    return found


def click_ratio(rate: int) -> dict[str, float]:
    """Largest second difference while parameters change, over the largest while they rest.

    On a 150 Hz hum of three harmonics, where every bend of the wave is gentle, so that a click
    stands out: all of pitch, formant, robot and gain jump, one at a time, every 70 ms.
    """
    t = np.arange(4 * rate) / rate
    wave = sum(a * np.sin(2 * np.pi * 150 * k * t) for k, a in ((1, 0.3), (2, 0.1), (3, 0.05)))
    hum: Signal = np.asarray(wave, np.float32)
    changes = (
        {"pitch": 7.0},
        {"formant": 5.0},
        {"robot": 1.0},
        {"gain": -6.0},
        {"pitch": -5.0},
        {"robot": 0.0},
        {"formant": -3.0},
        {"gain": 0.0},
        {"pitch": 0.0},
        {"formant": 0.0},
    )
    bends: list[float] = []
    seen: dict[str, float] = {}
    for change in changes:
        seen |= change
        bends.append(sharpest_bend(stream(hum[:rate], rate, rate // 100, seen)))
    model = PitchModel(slots=1, sample_rate=rate, frame=rate // 100)
    model.load("cpu")
    model.open(0, {})
    out = []
    for n, block in enumerate(hum[: 400 * model.frame].reshape(400, 1, model.frame)):
        if n % 7 == 3 and n > 20:
            model.set_params(0, changes[n // 7 % len(changes)])
        out.append(model.step(block, np.ones(1, np.bool_))[0])
    return {"ratio": sharpest_bend(np.concatenate(out)) / max(bends)}


def memory_growth_bytes(blocks: int) -> int:
    """Growth of traced memory over so many blocks of speech, after a start-up of a tenth."""
    voice = speech(16000, seconds=2.0).samples
    frame = 16
    model = PitchModel(slots=1, sample_rate=16000, frame=frame)
    model.load("cpu")
    model.open(0, {"pitch": 4})
    active = np.ones(1, np.bool_)
    tracemalloc.start()
    before = 0
    for n in range(blocks):
        at = n * frame % (len(voice) - frame)
        model.step(voice[None, at : at + frame], active)
        if n == blocks // 10:
            before = tracemalloc.get_traced_memory()[0]
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return grown


def _read(audio: Path | None, quick: bool) -> tuple[list[Signal], str]:
    """Speech at 16 kHz, one utterance a speaker, and where it comes from."""
    if audio and (audio / "librispeech").is_dir():
        audio = audio / "librispeech"
    folders = sorted(p for p in audio.glob("*") if any(p.glob("*.flac"))) if audio else []
    signals = []
    for folder in folders[: 3 if quick else 10]:
        parts = [soundfile.read(p, dtype="float32") for p in sorted(folder.glob("*.flac"))[:3]]
        if all(rate == 16000 for _, rate in parts):
            signals.append(np.concatenate([x for x, _ in parts])[: 16000 * (5 if quick else 6)])
    if signals:
        return signals, f"recorded, {len(signals)} speakers"
    made = [
        speech(16000, seconds=5, f0_hz=f, seed=n).samples for n, f in enumerate((100, 140, 210))
    ]
    return made, "made up (no recordings found)"


def _at(signals: Sequence[Signal], rate: int) -> list[Signal]:
    if rate == 16000:
        return list(signals)
    return [soxr.resample(one, 16000, rate).astype(np.float32) for one in signals]


def run(
    audio: Path | None,
    *,
    quick: bool = False,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure everything; {"checks": [{name, value, target, met}], "figures": {...}, ...}.

    audio: a folder with one folder of 16 kHz flac files a speaker, or None for made-up speech.
    """
    say = progress or (lambda _: None)
    speakers, source = _read(audio, quick)
    rates = (24000,) if quick else RATES
    checks: list[dict[str, Any]] = []
    figures: dict[str, Any] = {}

    def check(name: str, value: float, limit: float, at_least: bool = False) -> None:
        met = value >= limit if at_least else value <= limit
        sign = ">=" if at_least else "<="
        checks.append(
            {
                "name": name,
                "value": round(value, 3),
                "target": f"{sign} {limit:g}",
                "met": bool(met),
            }
        )

    others: dict[str, Any] = {}
    for name, finer in (("rubberband_r2_short", False), ("rubberband_r3_short", True)):
        try:
            importlib.import_module("pylibrb")
        except ImportError:
            others[name] = "not installed"
        else:
            others[name] = {"finer": finer}
    world = importlib.util.find_spec("pyworld") is not None
    if not world:
        figures["speech_f0"] = "not measured: pyworld is not installed"
    for rate in rates:
        say(f"tones and speech at {rate} Hz")
        heard = _at(speakers, rate)
        t = np.arange(round(1.5 * rate)) / rate
        tones = [np.asarray(0.5 * np.sin(2 * np.pi * hz * t), np.float32) for hz in TONES_HZ]
        truth = [trusted_f0_of(one, rate) for one in heard] if world else []
        tone: list[float] = []
        for shift in SHIFTS:
            for hz, out in zip(TONES_HZ, shifted(tones, rate, {"pitch": shift}), strict=True):
                tone += tone_error_cents(out, rate, hz * 2 ** (shift / 12))
            if world:
                error = speech_error(truth, shifted(heard, rate, {"pitch": shift}), rate, shift)
                figures[f"speech_f0_{rate}_{shift:+d}"] = error
                check(
                    f"speech f0 median, {rate} Hz, {shift:+d} st, cents", error["median_cents"], 12
                )
                check(f"speech f0 off > 1 st, {rate} Hz, {shift:+d} st, %", error["off_percent"], 5)
        check(f"tone f0 p90 error, {rate} Hz, cents", float(np.percentile(np.abs(tone), 90)), 3)
        delay = latency(rate, heard[0][: 4 * rate])
        figures[f"latency_{rate}"] = delay
        check(f"latency, {rate} Hz, ms", delay["declared_ms"], 40)
        check(
            f"impulse late by other than declared, {rate} Hz, ms",
            abs(delay["impulse_ms"] - delay["declared_ms"]),
            0,
        )
        check(
            f"envelope late by other than declared, {rate} Hz, ms",
            abs(delay["envelope_ms"] - delay["declared_ms"]),
            3,
        )
        for other in others.values():
            if isinstance(other, dict):
                other[f"{rate}"] = _beside(other["finer"], rate, tones, heard, truth)
    heard = _at(speakers, 24000)
    if world:
        say("formants")
        for name in ("natural-up", "natural-down"):
            moved = formant_shift(heard, shifted(heard, 24000, VOICES[name]), 24000)
            figures[f"formants_{name}"] = moved
            for key in ("f1", "f1_over_2_f0", "f2", "f3"):
                check(f"{name}: {key} off, median, %", moved[f"{key}_off_percent"], 5)
        figures["formants_when_asked_12.2_percent_up"] = formant_shift(
            heard, shifted(heard, 24000, {"formant": 2}), 24000
        )
        made_vowels = vowel_formants(quick)
        figures["vowels"] = made_vowels
        for key in ("f1", "f2", "f3"):
            check(f"made vowels, {key} off, median, %", made_vowels[f"{key}_median_percent"], 5)
    say("block sizes")
    short = heard[0][: 24000 * 2]
    whole = stream(short, 24000, len(short), VOICES["chipmunk"])
    same = {n: snr_db(whole, stream(short, 24000, n, VOICES["chipmunk"])) for n in BLOCKS}
    figures["stream_equals_whole_db"] = {str(n): value for n, value in same.items()}
    check("stream equals whole file, worst of 7 block sizes, dB", min(same.values()), 100, True)
    say("levels and consonants")
    for name, params in VOICES.items():
        outs = shifted(heard, 24000, params)
        level = [20 * np.log10(float(o.std() / x.std())) for x, o in zip(heard, outs, strict=True)]
        figures[f"level_db_{name}"] = {
            "mean": float(np.mean(level)),
            "worst": float(max(level, key=abs)),
        }
        check(f"{name}: level, mean of speakers, |dB|", abs(float(np.mean(level))), 2)
    made = speech(24000, seconds=4)
    kept = shifted([made.samples], 24000, VOICES["natural-up"])[0]
    inner = np.convolve(made.noisy, np.ones(961), "same") > 960.5
    check(
        "consonants kept, 20 ms from their edges, dB",
        snr_db(made.samples[inner], kept[inner]),
        40,
        True,
    )
    say("clicks and memory")
    check("bend while parameters change / at rest", click_ratio(24000)["ratio"], 1.5)
    check("memory growth over 10,000 blocks, bytes", memory_growth_bytes(10_000), 20_000)
    say("moves")
    snr = [v for name in ("chipmunk", "giant") for v in moved_snr_db(heard, 24000, VOICES[name])]
    if snr:
        figures["moved_snr_db"] = {
            "median": float(np.median(snr)),
            "worst": min(snr),
            "cuts": len(snr),
            "share_over_60_db": float(np.mean(np.array(snr) >= 60)),
        }
        check("moved session, median, dB", float(np.median(snr)), 60, True)
        check("moved session, worst, dB", min(snr), 60, True)
    say("CPU")
    cpu = {n: cpu_percent(24000, n, heard) for n in (1, 4, 16)}
    figures["cpu_percent_of_a_core_per_stream"] = {str(n): value for n, value in cpu.items()}
    check("CPU a stream, batch of 4, 24 kHz, %", cpu[4], 3)
    return {
        "audio": source,
        "quick": quick,
        "checks": checks,
        "figures": figures,
        "beside": others,
        "all_met": all(c["met"] for c in checks),
    }


def _beside(
    finer: bool,
    rate: int,
    tones: Sequence[Signal],
    heard: Sequence[Signal],
    truth: Sequence[NDArray[np.float64]],
) -> dict[str, float]:
    """Rubber Band's figures at +4 semitones, as ours are taken."""
    outs, _, _ = rubber_band(tones, rate, 4, finer)
    tone = [
        e
        for hz, out in zip(TONES_HZ, outs, strict=True)
        for e in tone_error_cents(out, rate, hz * 2 ** (4 / 12))
    ]
    outs, cpu, late = rubber_band(heard, rate, 4, finer)
    late += lag_samples(heard[0], np.r_[outs[0], np.zeros(rate // 4, np.float32)], rate)
    result = speech_error(truth, outs, rate, 4) if truth else {}
    return result | {
        "tone_p90_cents": float(np.percentile(np.abs(tone), 90)),
        "cpu_percent": 100 * cpu,
        "latency_ms": 1000 * late / rate,
    }


def table(result: Mapping[str, Any]) -> str:
    """The checks as lines for people, then the other engines in one line a rate."""
    lines = [f"Pitch engine on {result['audio']} speech"]
    for one in result["checks"]:
        mark = "ok  " if one["met"] else "MISS"
        lines.append(f"{mark} {one['name']:<62} {one['value']:>12.3f}   {one['target']}")
    for name, other in result["beside"].items():
        if isinstance(other, str):
            lines.append(f"{name}: {other}")
            continue
        for rate, figures in other.items():
            if isinstance(figures, dict):
                parts = ", ".join(f"{key} {value:.2f}" for key, value in figures.items())
                lines.append(f"{name} {rate} Hz: {parts}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m understudy.bench.engine`: print the table, or with --json the result."""
    parser = argparse.ArgumentParser(description="Benchmark the pitch engine.")
    parser.add_argument("--audio", type=Path, help="a folder with a folder of flac files a speaker")
    parser.add_argument("--quick", action="store_true", help="fewer speakers, 24 kHz only")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    result = run(chosen.audio, quick=chosen.quick, progress=None if chosen.json else print)
    print(json.dumps(result, indent=2) if chosen.json else table(result))


if __name__ == "__main__":
    main()
