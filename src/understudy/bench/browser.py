"""Mouth to ear in a real browser: a real server, headless Chromium, a fake microphone.

An AudioWorklet in the page (the SDK's `tap`) records the microphone's side and the loudspeaker's
side on one clock; how far apart they are is found by cross-correlation, not asked of the SDK.
"""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import soundfile
from numpy.typing import NDArray

from understudy.bench.recordings import files, load
from understudy.bench.server import Server as Server  # the end-to-end tests find both here
from understudy.bench.server import serving as serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

Audio = NDArray[np.float32]

LINE_TARGET_MS: Final = 60.0
F0_TOLERANCE: Final = 0.03
STALL_MS: Final = 120
STALL_EVERY_MS: Final = 500
MIC_RATE: Final = 48_000
WINDOW_S: Final = 2.0
WARM_UP_S: Final = 2.0
LONGEST_DELAY_S: Final = 0.6

CHROMIUM_ARGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)
NO_CHROMIUM: Final = (
    "No Chromium was found. Install it (Debian: `apt install chromium`; or "
    "`playwright install chromium`), or set UNDERSTUDY_CHROMIUM to its path."
)


# --- The pieces that the end-to-end tests share ---


def find_chromium(playwright: Playwright | None = None) -> str:
    """The path of a Chromium or Chrome, or a FileNotFoundError that says what to do."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    candidates = [
        os.environ.get("UNDERSTUDY_CHROMIUM"),
        *(shutil.which(name) for name in names),
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        None if playwright is None else playwright.chromium.executable_path,
    ]
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return candidate
    raise FileNotFoundError(NO_CHROMIUM)


def launch(playwright: Playwright, *extra: str) -> Browser:
    return playwright.chromium.launch(
        executable_path=find_chromium(playwright), args=[*CHROMIUM_ARGS, *extra]
    )


def fake_microphone(wav: Path) -> list[str]:
    """Flags for a microphone that is allowed unasked and plays this file, over and over."""
    return [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={wav}",
    ]


def f0_ratio(source: Audio, target: Audio, rate: int) -> float:
    """The median of target's f0 over source's, where both are voiced; both aligned."""
    import pyworld

    n = min(len(source), len(target))
    tracks = []
    for samples in (source, target):
        x = samples[:n].astype(np.float64)
        f0, at = pyworld.dio(x, rate, f0_floor=60.0, f0_ceil=700.0)
        tracks.append(pyworld.stonemask(x, f0, at, rate))
    both = (tracks[0] > 0) & (tracks[1] > 0)
    if both.sum() < 20:
        raise ValueError("too little voiced speech to measure f0")
    return float(np.median(tracks[1][both] / tracks[0][both]))


# --- The measurement ---


def microphone_audio(audio: Path | None) -> Audio:
    """Speech for f0, then noise bursts for the delay; a noise floor so that no gap hides."""
    random = np.random.default_rng(7)
    bursts: list[Audio] = []
    while sum(map(len, bursts)) < 4 * MIC_RATE:
        for level in (0.3, 0.0):
            n = round(random.uniform(0.03, 0.15) * MIC_RATE)
            bursts.append((level * random.uniform(-1, 1, n)).astype(np.float32))
    whole = np.concatenate([load(audio, MIC_RATE, 6.0), *bursts])
    floor = 1e-3 * random.uniform(-1, 1, whole.size)
    return np.clip(whole + floor, -1, 1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Take:
    """What one session gave: both sides on one clock, and what the SDK counted."""

    source: Audio
    target: Audio
    sample_rate: int
    announced_ms: float
    underruns: int
    stalls: int


_START: Final = """async ({voice, user}) => {
  const {connect} = await import(new URL("understudy.js", location.href).href);
  const session = connect({voice, user, tap: true});
  window.session = session;
  return await new Promise((resolve, reject) => {
    session.on("state", ({state}) => {
      if (state.name === "live") resolve(state.latencyMs);
      if (state.name === "ended") reject(new Error(state.error?.detail ?? state.reason));
    });
  });
}"""

_STALL: Final = """([stallMs, everyMs]) => {
  window.stalls = 0;
  window.stalling = setInterval(() => {
    const end = performance.now() + stallMs;
    while (performance.now() < end);
    window.stalls += 1;
  }, everyMs);
}"""

_FINISH: Final = """async () => {
  clearInterval(window.stalling);
  // What the tap and the playout worklet sent during the last stall is still on its way.
  await new Promise((resolve) => setTimeout(resolve, 300));
  const session = window.session;
  const {input, output} = session.takeTap();
  const {underruns} = session.playout;
  const sampleRate = session.sampleRate;
  await session.stop();
  const pack = (x) => {
    const bytes = new Uint8Array(x.buffer, x.byteOffset, x.byteLength);
    let text = "";
    for (let i = 0; i < bytes.length; i += 32768) {
      text += String.fromCharCode(...bytes.subarray(i, i + 32768));
    }
    return btoa(text);
  };
  return {input: pack(input), output: pack(output), underruns, sampleRate, stalls: window.stalls};
}"""


def record(page: Page, voice: str, seconds: float, *, stall: bool) -> Take:
    announced_ms = page.evaluate(_START, {"voice": voice, "user": "bench"})
    page.evaluate("window.stalls = 0")
    if stall:
        page.evaluate(_STALL, [STALL_MS, STALL_EVERY_MS])
    page.wait_for_timeout((WARM_UP_S + seconds) * 1000)
    taken = page.evaluate(_FINISH)

    def unpack(text: str) -> Audio:
        return np.frombuffer(base64.b64decode(text), np.float32)

    source, target = unpack(taken["input"]), unpack(taken["output"])
    rate = int(taken["sampleRate"])
    skip = min(round(WARM_UP_S * rate), len(source) // 2)
    return Take(
        source[skip:], target[skip:], rate, announced_ms, taken["underruns"], taken["stalls"]
    )


def delays_ms(take: Take) -> list[float]:
    """The delay in each window of the take, by cross-correlation of the loudness of both sides."""
    hop = take.sample_rate // 2000  # half a millisecond
    source, target = (_loudness(x, hop) for x in (take.source, take.target))
    per_s = take.sample_rate / hop
    size, longest = round(WINDOW_S * per_s), round(LONGEST_DELAY_S * per_s)
    found = []
    for at in range(0, len(source) - size - longest, size):
        x = source[at : at + size]
        y = target[at : at + size + longest]
        if x.std() < 3:  # dB: a pause says nothing
            continue
        x = x - x.mean()
        scores = np.array([np.corrcoef(x, y[lag : lag + size])[0, 1] for lag in range(longest)])
        best = int(scores.argmax())
        if scores[best] > 0.6:
            found.append(best / per_s * 1000)
    return found


def _loudness(x: Audio, hop: int) -> NDArray[np.float64]:
    """dB over 4 ms, every hop."""
    power = np.convolve(x.astype(np.float64) ** 2, np.ones(8 * hop) / (8 * hop), "same")[::hop]
    decibels: NDArray[np.float64] = 10 * np.log10(power + 1e-7)
    return decibels


def gap_ms(take: Take) -> float:
    """How long the loudspeaker's side was silent for 8 ms or more: the microphone never is."""
    silent = np.flatnonzero(np.abs(take.target) > 1e-5)
    if silent.size == 0:
        return len(take.target) / take.sample_rate * 1000
    runs = np.diff(silent)
    longest = 0.008 * take.sample_rate
    return float(runs[runs > longest].sum() / take.sample_rate * 1000)


def aligned_f0_ratio(take: Take, delay_ms: float) -> float:
    shift = round(delay_ms * take.sample_rate / 1000)
    return f0_ratio(take.source, take.target[shift:], take.sample_rate)


def run(
    audio: Path | None,
    *,
    quick: bool = False,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measures; each figure with its target and whether it is met."""
    from playwright.sync_api import sync_playwright

    say = progress or (lambda _line: None)
    runs, seconds = (1, 6.0) if quick else (3, 10.0)
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, serving() as server, sync_playwright() as pw:
        wav = Path(folder) / "microphone.wav"
        soundfile.write(wav, microphone_audio(audio), MIC_RATE, subtype="PCM_16")
        browser = launch(pw, *fake_microphone(wav))
        version = browser.version
        page = browser.new_page()
        page.goto(server.url)
        voices = {v["name"]: v for v in page.evaluate(_VOICES)}
        for voice in ("mirror", "chipmunk"):
            takes = []
            for k in range(runs):
                say(f"{voice}: run {k + 1} of {runs}")
                takes.append(record(page, voice, seconds, stall=False))
            say(f"{voice}: main thread stalled {STALL_MS} ms every {STALL_EVERY_MS} ms")
            # The machine's own hiccups are not the page's: the median of several runs tells.
            stalled = [record(page, voice, seconds, stall=True) for _ in range(runs)]
            pitch = float(voices[voice]["params"].get("pitch", 0.0))
            figures += _figures(voice, takes, stalled, 2 ** (pitch / 12))
        browser.close()
    return {
        "benchmark": "browser",
        "load_average": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
        "browser": f"Chromium {version}, headless",
        "runs": runs,
        "seconds_a_run": seconds,
        "speech": "recorded" if files(audio) else "made up",
        "figures": figures,
        "met": all(f["met"] for f in figures if f["met"] is not None),
    }


_VOICES: Final = "async () => (await (await fetch('v1/voices')).json()).voices"


def _figures(
    voice: str, takes: list[Take], stalled: list[Take], ratio: float
) -> list[dict[str, Any]]:
    announced = takes[0].announced_ms
    by_run = [delays_ms(take) for take in takes]
    delays = np.array([d for run_delays in by_run for d in run_delays])
    if delays.size == 0:
        raise RuntimeError(f"{voice}: nothing of the microphone was heard in the output")
    line = delays - announced
    measured = float(
        np.median(
            [aligned_f0_ratio(t, float(np.median(d))) for t, d in zip(takes, by_run, strict=True)]
        )
    )

    def figure(
        name: str, value: float, unit: str, target: str | None, met: bool | None
    ) -> dict[str, Any]:
        rounded = round(value, 3 if unit == "ratio" else 1)
        return {
            "name": f"{voice}: {name}",
            "value": rounded,
            "unit": unit,
            "target": target,
            "met": met,
        }

    p50, p95 = (float(np.percentile(line, q)) for q in (50, 95))
    gaps = sum(gap_ms(take) for take in takes)
    dry = [take.underruns for take in stalled]
    underruns = sum(take.underruns for take in takes)
    return [
        figure("mouth to ear, p50", float(np.median(delays)), "ms", None, None),
        figure("announced by the voice", announced, "ms", None, None),
        figure("the line alone, p50", p50, "ms", f"<= {LINE_TARGET_MS:g}", p50 <= LINE_TARGET_MS),
        figure("the line alone, p95", p95, "ms", None, None),
        figure("underruns in all runs", underruns, "", None, None),
        figure("gaps in all runs", gaps, "ms", None, None),
        figure(
            f"underruns with {min(take.stalls for take in stalled)} stalls, median run",
            float(np.median(dry)),
            "",
            "0",
            float(np.median(dry)) == 0 and all(take.stalls > 0 for take in stalled),
        ),
        figure("underruns with stalls, all runs", sum(dry), "", None, None),
        figure("gaps with stalls, all runs", sum(map(gap_ms, stalled)), "ms", None, None),
        figure(
            "f0 out / f0 in",
            measured,
            "ratio",
            f"{ratio:.3f} ± {F0_TOLERANCE:.0%}",
            abs(measured / ratio - 1) <= F0_TOLERANCE,
        ),
    ]


def table(result: dict[str, Any]) -> str:
    """The figures as text."""
    marks = {True: "met", False: "MISSED", None: ""}
    rows = [("figure", "value", "target", "")]
    for f in result["figures"]:
        value = f"{f['value']:g} {f['unit']}".strip()
        rows.append((f["name"], value, f["target"] or "", marks[f["met"]]))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    head = (
        f"{result['browser']}; {result['runs']} runs of {result['seconds_a_run']:g} s a voice, "
        f"{result['speech']} speech; "
        f"load {result['load_average']} on {result['cores']} cores"
    )
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([head, *(line.rstrip() for line in lines)])
