"""Owns the understudy's own voice: streaming pitch and formant shift, batched over slots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from understudy.core.wire import Control
from understudy.models.pitch_grains import Grain, Grains
from understudy.models.pitch_tracker import Pitch, Rows, Tracker

PARAMS: Final[Mapping[str, tuple[float, float, float, str]]] = MappingProxyType(
    {
        "pitch": (-24.0, 24.0, 0.0, "semitones"),
        "formant": (-12.0, 12.0, 0.0, "semitones"),
        "robot": (0.0, 1.0, 0.0, "share"),
        "robot_hz": (50.0, 400.0, 110.0, "Hz"),
        "gain": (-24.0, 24.0, 0.0, "dB"),
    }
)
"""Parameter name -> (minimum, maximum, default, unit)."""

_HOP_S: Final = 0.005
_BURST_S: Final = 0.1  # what one step may take at most
_LATENCY_HOPS: Final = 8
_CENTRE_HOPS: Final = 4  # the tracker's window is twice this long, and grains are laid here
_BREAK: Final = 0.25  # a period that changes by more from hop to hop is another pitch
_SLIP: Final = 0.2  # how far, of its advance, measured phase may correct the phase expected
_SHORTER: Final = 0.15  # of a grain's half, and what makes up for it
_LOUDER: Final = 0.16
_INPUT_MAX: Final = 4.0  # 12 dB over full scale; more is a broken source
_KNEE: Final = 0.95  # output above this is bent, so that it stays below 1


def check_params(params: Mapping[str, float]) -> dict[str, float]:
    """The given parameters as floats; ValueError says what to do about the first bad one."""
    checked: dict[str, float] = {}
    for name, value in params.items():
        if name not in PARAMS:
            known = ", ".join(PARAMS)
            raise ValueError(f"The pitch voice has no parameter {name!r}: use one of {known}.")
        low, high, _, unit = PARAMS[name]
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not low <= number <= high:
            raise ValueError(
                f"The parameter {name!r} is {value!r}: give a number from {low:g} to {high:g} "
                f"({unit})."
            )
        checked[name] = number
    return checked


class PitchModel:
    """Time-domain pitch-synchronous overlap-add (TD-PSOLA) over a fixed internal hop.

    Every 5 ms of a slot's input a tracker measures period, voicing and pulse phase; output
    pulses are laid where the scaled phase passes whole numbers, each a two-period grain of the
    input about the nearest input pulse (Moulines & Charpentier 1990, "Pitch-synchronous
    waveform processing techniques for text-to-speech synthesis using diphones"). Formants stay
    where they are, since grains are not resampled unless `formant` asks. What is not voiced is
    passed as it is, so consonants keep their noise and their edges. Where voicing starts, the
    output phase starts at the input's, so state reaches back no further than that.

    Frames are float32 [slots, frame], full scale 1.0. Output is bent softly above 0.95 and
    never reaches 1. Non-finite input counts as silence, and input beyond +-4 is clipped.
    """

    def __init__(self, *, slots: int = 4, sample_rate: int = 24000, frame: int = 1) -> None:
        """sample_rate in Hz, 8000 to 48000; step takes whole numbers of `frame` samples.

        The hop inside is its own, so any frame gives the same stream; one sample, the default,
        adds no latency.
        """
        if not 8000 <= sample_rate <= 48000:
            raise ValueError(f"sample_rate is {sample_rate}: give 8000 to 48000 Hz.")
        if slots < 1:
            raise ValueError(f"slots is {slots}: give at least 1.")
        if frame < 1:
            raise ValueError(f"frame is {frame}: give at least 1 sample.")
        self.sample_rate = sample_rate
        self.frame = frame
        self.burst = max(1, round(sample_rate * _BURST_S) // frame)
        self.controls = {name: Control(*spec) for name, spec in PARAMS.items()}
        self.slots = slots
        self._hop = int(sample_rate * _HOP_S)
        self.latency_samples = _LATENCY_HOPS * self._hop
        self.latency_s = self.latency_samples / sample_rate
        self.alignment_samples = self._hop
        self.context_s = 2.0
        self._loaded = False

    def load(self, device: str) -> None:
        """Allocate every buffer. device: "cpu", the only one this voice knows."""
        if device != "cpu":
            raise ValueError(f"The pitch voice runs on 'cpu', not on {device!r}.")
        slots, hop = self.slots, self._hop
        self._tracker = Tracker(slots, self.sample_rate, 2 * _CENTRE_HOPS * hop, hop)
        self._grains = Grains(
            slots, hop, self.latency_samples, (_LATENCY_HOPS - _CENTRE_HOPS - 1) * hop
        )
        self._ramp = (np.arange(hop, dtype=np.float32) + 1) / np.float32(hop)
        self._slots = np.arange(slots)
        self._params: list[dict[str, float]] = [{} for _ in range(slots)]
        self._heard = np.zeros((slots, self.latency_samples + 32), np.float32)
        self._filling = np.zeros((slots, hop), np.float32)
        self._ready = np.zeros((slots, hop), np.float32)
        self._filled = np.zeros(slots, np.intp)
        self._voices = [_Voice() for _ in range(slots)]
        self._loaded = True
        for slot in range(slots):
            self.open(slot, {})

    def open(self, slot: int, params: Mapping[str, float]) -> None:
        """Start the slot anew, from silence; parameters not given take their defaults."""
        checked = check_params(params)
        self._check_slot(slot)
        for state in (self._heard, self._filling, self._ready, self._filled):
            state[slot] = 0
        self._tracker.open(slot)
        self._grains.open(slot)
        self._voices[slot] = _Voice()
        self._params[slot] = {name: default for name, (_, _, default, _) in PARAMS.items()}
        self.set_params(slot, checked)
        self._voices[slot].gain = self._voices[slot].gain_to

    def set_params(self, slot: int, params: Mapping[str, float]) -> None:
        """Change the given parameters from the next hop on; others stay as they are."""
        checked = check_params(params)
        self._check_slot(slot)
        now = self._params[slot]
        now.update(checked)
        voice = self._voices[slot]
        voice.pitch = 2 ** (now["pitch"] / 12)
        voice.formant = 2 ** (now["formant"] / 12)
        voice.robot = now["robot"]
        voice.robot_cycles = now["robot_hz"] * self._hop / self.sample_rate
        voice.gain_to = 10 ** (now["gain"] / 20)
        self._grains.set_formant(slot, voice.formant)

    def step(self, frames: NDArray[np.float32], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Frames [slots, n·frame] in, as many out, `latency_samples` later.

        A slot that is not active gives zeros and its state stays as it is. ValueError if a
        shape is wrong or a dtype is not float32.
        """
        if not self._loaded:
            raise RuntimeError("The pitch voice is not loaded: call load('cpu') first.")
        samples = frames.shape[-1]
        whole = samples and samples % self.frame == 0
        if frames.shape != (self.slots, samples) or active.shape != (self.slots,) or not whole:
            raise ValueError(
                f"step takes frames ({self.slots}, n·{self.frame}) and active {(self.slots,)}, not "
                f"{frames.shape} and {active.shape}."
            )
        out = np.zeros((self.slots, samples), np.float32)
        done = np.where(active, 0, samples)
        clean = frames
        if not np.abs(frames).max() <= _INPUT_MAX:  # also when it is no number at all
            clean = np.nan_to_num(frames, nan=0.0, posinf=0.0, neginf=0.0)
            clean = clean.clip(-_INPUT_MAX, _INPUT_MAX)
        hop, filled = self._hop, self._filled
        while True:
            count = np.minimum(hop - filled, samples - done)
            if not count.any():
                return out
            for at, to, n in {*zip(done.tolist(), filled.tolist(), count.tolist(), strict=True)}:
                if n:
                    same = self._rows((done == at) & (filled == to) & (count == n))
                    self._filling[same, to : to + n] = clean[same, at : at + n]
                    out[same, at : at + n] = self._ready[same, to : to + n]
            done += count
            filled += count
            due = filled == hop
            if due.any():
                filled[due] = 0
                rows = self._rows(due)
                self._ready[rows] = self._perform(rows)

    def _rows(self, chosen: NDArray[np.bool_]) -> Rows:
        return slice(None) if chosen.all() else np.flatnonzero(chosen)

    def _check_slot(self, slot: int) -> None:
        if not self._loaded:
            raise RuntimeError("The pitch voice is not loaded: call load('cpu') first.")
        if not 0 <= slot < self.slots:
            raise ValueError(f"slot is {slot}: give 0 to {self.slots - 1}.")

    def _perform(self, rows: Rows) -> NDArray[np.float32]:
        """One hop for every due row: listen, lay grains, mix; returns [rows, hop]."""
        hop, late = self._hop, self.latency_samples
        self._heard[rows, :-hop] = self._heard[rows, hop:]
        self._heard[rows, -hop:] = self._filling[rows]
        self._grains.read(rows, self._heard)
        voices = [self._voices[slot] for slot in self._slots[rows].tolist()]
        grains: list[Grain] = []
        pitches = self._tracker.analyse(self._heard, rows)
        for slot, voice, pitch in zip(self._slots[rows].tolist(), voices, pitches, strict=True):
            voice.follow(pitch, hop, slot, grains)
        if grains:
            self._grains.add(grains)
        out = self._heard[rows, -late : self._heard.shape[1] - late + hop].copy()
        wet = self._grains.take(rows)
        shares = [(voice.wet[-1], voice.wet[-2]) for voice in voices]
        if any(share != (0.0, 0.0) for share in shares):
            wet -= out
            if any(share != (1.0, 1.0) for share in shares):
                wet *= self._ramps(shares)
            out += wet
        gains = [(voice.gain, voice.gain_to) for voice in voices]
        if any(gain != (1.0, 1.0) for gain in gains):
            out *= self._ramps(gains)
            for voice in voices:
                voice.gain = voice.gain_to
        return _soften(out)

    def _ramps(self, ends: list[tuple[float, float]]) -> NDArray[np.float32]:
        """One straight line a row over the hop, from the first of a pair to the second."""
        start, to = np.array(ends, np.float32).T[:, :, None]
        ramps: NDArray[np.float32] = start + (to - start) * self._ramp
        return ramps


@dataclass(slots=True)
class _Voice:
    """One slot's parameters, and where its pulse trains stand."""

    pitch: float = 1.0  # ratio
    formant: float = 1.0  # ratio
    robot: float = 0.0
    robot_cycles: float = 1.0  # per hop
    gain: float = 1.0  # factor now, and where it is going
    gain_to: float = 1.0
    period: float = 0.0  # samples at the last measurement; 0: it was not voiced
    phase: float = 0.0  # cycles of the input's pulse train there
    out_phase: float = 0.0  # and of the output's
    # Share of the grains in the output at the last measurements, newest first.
    wet: list[float] = field(default_factory=lambda: [0.0] * (_LATENCY_HOPS - _CENTRE_HOPS + 1))

    def follow(self, heard: Pitch, hop: int, slot: int, grains: list[Grain]) -> None:
        """Go on to a new measurement, one hop later; grains centred in between are appended."""
        before = self.period
        wet = 0.0
        # The first grains of a voiced stretch have no neighbours on their left yet.
        if heard.voiced and before:
            wet = min(1.0, self.wet[0] + hop / max(heard.period_samples, hop))
        self.wet.insert(0, wet)
        self.wet.pop()
        self.period = heard.period_samples if heard.voiced else 0.0
        if not heard.voiced:
            return
        period = heard.period_samples
        if abs(period - before) > _BREAK * period:
            advance = hop / period
            from_period = period
        else:
            from_period = before
            advance = 2 * hop / (period + before)
            error = heard.phase_cycles - self.phase - advance
            error -= round(error)
            advance += max(-_SLIP * advance, min(_SLIP * advance, error))
        from_phase = (heard.phase_cycles - advance) % 1.0
        out_advance = advance * self.pitch
        if self.robot:
            out_advance = out_advance ** (1 - self.robot) * self.robot_cycles**self.robot
        speed = out_advance / advance
        # A voiced stretch starts with its first output pulse on its first input pulse, and where
        # pitch is left alone the pulses stay together, so that nothing changes but the formants.
        together = not before or speed == 1.0
        from_out = 1 - speed * (1 - from_phase) if together else self.out_phase
        self.phase = heard.phase_cycles
        self.out_phase = (from_out + out_advance) % 1.0
        # Power goes with the number and length of grains. Off their beat (by a semitone or more)
        # grains may be shorter than two periods: the spectrum between harmonics is then less of
        # a blend, so F1 stays better put. What that takes from the level was measured on speech.
        off_beat = min(1.0, 12 * abs(math.log2(speed)))
        half = 1 - _SHORTER * off_beat
        gain = math.sqrt(self.formant / speed) * (1 + _LOUDER * off_beat)
        for pulse in range(math.floor(from_out) + 1, math.floor(from_out + out_advance) + 1):
            part = (pulse - from_out) / out_advance
            centre = (part - 1 - _CENTRE_HOPS) * hop
            length = from_period + part * (period - from_period)
            into = from_phase + part * advance
            source = centre + (round(into) - into) * length
            grains.append(Grain(slot, centre, source, half * length, self.formant, gain))


def _soften(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bend what is beyond the knee towards, never to, full scale; below it nothing changes."""
    size = np.abs(signal)
    if not (size > _KNEE).any():
        return signal
    room = np.float32(1 - _KNEE)
    bent = np.copysign(_KNEE + room * np.tanh((size - np.float32(_KNEE)) / room), signal)
    return np.where(size > _KNEE, bent, signal).astype(np.float32)
