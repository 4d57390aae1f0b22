"""Owns the understudy's own voice: streaming pitch and formant shift, batched over slots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from understudy.models.pitch_grains import Grains, Rows
from understudy.models.pitch_tracker import Tracker

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
_LATENCY_HOPS: Final = 8
_CENTRE_HOPS: Final = 4  # the tracker's window is twice this long, and grains are laid here
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

    def __init__(self, *, slots: int = 4, sample_rate: int = 24000, frame: int | None = None):
        """sample_rate in Hz, 8000 to 48000; frame in samples, 10 ms unless given."""
        if not 8000 <= sample_rate <= 48000:
            raise ValueError(f"sample_rate is {sample_rate}: give 8000 to 48000 Hz.")
        if slots < 1:
            raise ValueError(f"slots is {slots}: give at least 1.")
        frame = round(sample_rate * 0.010) if frame is None else frame
        if frame < 1:
            raise ValueError(f"frame is {frame}: give at least 1 sample.")
        self.sample_rate = sample_rate
        self.frame = frame
        self.slots = slots
        self._hop = int(sample_rate * _HOP_S)
        self.latency_samples = _LATENCY_HOPS * self._hop
        self.latency_s = self.latency_samples / sample_rate
        self.alignment_samples = self._hop
        self.context_s = 3.0
        self._loaded = False

    def load(self, device: str) -> None:
        """Allocate every buffer. device: "cpu", the only one this voice knows."""
        if device != "cpu":
            raise ValueError(f"The pitch voice runs on 'cpu', not on {device!r}.")
        slots, hop = self.slots, self._hop
        self._tracker = Tracker(self.sample_rate, 2 * _CENTRE_HOPS * hop)
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
        self._wet = np.zeros((slots, _LATENCY_HOPS - _CENTRE_HOPS + 1), np.float64)
        self._period, self._phase, self._out_phase = np.zeros((3, slots))  # period 0: unvoiced
        self._pitch, self._formant, self._robot, self._robot_step = np.ones((4, slots))
        self._gain_to, self._gain = np.ones((2, slots))
        self._loaded = True
        for slot in range(slots):
            self.open(slot, {})

    def open(self, slot: int, params: Mapping[str, float]) -> None:
        """Start the slot anew, from silence; parameters not given take their defaults."""
        checked = check_params(params)
        self._check_slot(slot)
        for state in (self._heard, self._filling, self._ready, self._filled, self._wet):
            state[slot] = 0
        for state in (self._period, self._phase, self._out_phase):
            state[slot] = 0
        self._grains.open(slot)
        self._params[slot] = {name: default for name, (_, _, default, _) in PARAMS.items()}
        self.set_params(slot, checked)
        self._gain[slot] = self._gain_to[slot]

    def set_params(self, slot: int, params: Mapping[str, float]) -> None:
        """Change the given parameters from the next hop on; others stay as they are."""
        checked = check_params(params)
        self._check_slot(slot)
        now = self._params[slot]
        now.update(checked)
        self._pitch[slot] = 2 ** (now["pitch"] / 12)
        self._formant[slot] = 2 ** (now["formant"] / 12)
        self._robot[slot] = now["robot"]
        self._robot_step[slot] = now["robot_hz"] * self._hop / self.sample_rate
        self._gain_to[slot] = 10 ** (now["gain"] / 20)
        self._grains.set_formant(slot, float(self._formant[slot]))

    def step(
        self, frames: NDArray[np.float32], active: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Frames [slots, frame] in, frames out, `latency_samples` later.

        A slot that is not active gives zeros and its state stays as it is. ValueError if a
        shape is wrong or a dtype is not float32.
        """
        if not self._loaded:
            raise RuntimeError("The pitch voice is not loaded: call load('cpu') first.")
        if frames.shape != (self.slots, self.frame) or active.shape != (self.slots,):
            raise ValueError(
                f"step takes frames {(self.slots, self.frame)} and active {(self.slots,)}, not "
                f"{frames.shape} and {active.shape}."
            )
        out = np.zeros((self.slots, self.frame), np.float32)
        done = np.where(active, 0, self.frame)
        clean = frames
        if not np.abs(frames).max() <= _INPUT_MAX:  # also when it is no number at all
            clean = np.nan_to_num(frames, nan=0.0, posinf=0.0, neginf=0.0)
            clean = clean.clip(-_INPUT_MAX, _INPUT_MAX)
        hop, filled = self._hop, self._filled
        while True:
            count = np.minimum(hop - filled, self.frame - done)
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
        before = self._period[rows].copy()
        window = self._tracker.window
        heard = self._tracker.analyse(self._heard[:, -window:], rows, before)
        period = np.where(heard.voiced, heard.period_samples, 0.0)
        self._lay(rows, heard.voiced, period, heard.phase_cycles, before)
        self._period[rows] = period
        wet = self._wet[rows].copy()
        wet[:, 1:] = wet[:, :-1]
        # The first grains of a voiced stretch have no neighbours on their left yet.
        rise = hop / np.maximum(period, hop)
        wet[:, 0] = np.where(heard.voiced & (before > 0), np.minimum(wet[:, 1] + rise, 1), 0)
        self._wet[rows] = wet
        share = wet[:, -1:] + (wet[:, -2:-1] - wet[:, -1:]) * self._ramp
        share = share.astype(np.float32)
        dry = self._heard[rows, -late : self._heard.shape[1] - late + hop]
        out = dry + (self._grains.take(rows) - dry) * share
        gain, to = self._gain[rows, None], self._gain_to[rows, None]
        out *= (gain + (to - gain) * self._ramp).astype(np.float32)
        self._gain[rows] = self._gain_to[rows]
        return _soften(out)

    def _lay(
        self,
        rows: Rows,
        voiced: NDArray[np.bool_],
        period: NDArray[np.float64],
        phase: NDArray[np.float64],
        before: NDArray[np.float64],
    ) -> None:
        """Lay the grains whose centres fall within the newest hop that has been measured."""
        if not voiced.any():
            return
        rows = self._slots[rows][voiced]
        period, phase, before = period[voiced], phase[voiced], before[voiced]
        hop = self._hop
        start = before == 0
        broken = start | (np.abs(period - before) > 0.25 * period)
        from_period = np.where(broken, period, before)
        advance = 2 * hop / (period + from_period)
        error = phase - self._phase[rows] - advance
        error -= np.round(error)
        advance = np.where(broken, advance, advance + np.clip(error, -0.2 * advance, 0.2 * advance))
        robot = self._robot[rows]
        out_advance = (advance * self._pitch[rows]) ** (1 - robot) * self._robot_step[rows] ** robot
        speed = out_advance / advance
        # A voiced stretch starts with its first output pulse on its first input pulse.
        from_phase = phase - advance
        from_phase -= np.floor(from_phase)
        from_out = np.where(start, 1 - speed * (1 - from_phase), self._out_phase[rows])
        to_out = from_out + out_advance
        first = np.floor(from_out)
        count = (np.floor(to_out) - first).astype(np.intp)
        self._phase[rows] = phase
        self._out_phase[rows] = to_out - np.floor(to_out)
        if not count.any():
            return
        which = np.repeat(np.arange(rows.size), count)
        nth = np.arange(which.size) - np.repeat(np.cumsum(count) - count, count) + 1
        part = (first[which] + nth - from_out[which]) / out_advance[which]
        centre = (part - 1 - _CENTRE_HOPS) * hop
        length = from_period[which] + part * (period - from_period)[which]
        into = from_phase[which] + part * advance[which]
        source = centre + (np.round(into) - into) * length
        ratio = self._formant[rows][which]
        gain = np.sqrt(ratio / speed[which])
        self._grains.add(rows[which], centre, source, length, ratio, gain)


def _soften(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bend what is beyond the knee towards, never to, full scale; below it nothing changes."""
    size = np.abs(signal)
    if not (size > _KNEE).any():
        return signal
    room = np.float32(1 - _KNEE)
    bent = np.copysign(_KNEE + room * np.tanh((size - np.float32(_KNEE)) / room), signal)
    return np.where(size > _KNEE, bent, signal).astype(np.float32)
