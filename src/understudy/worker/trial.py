"""What a model must do before it may serve: attributes, a load, and a second of audio in its slots.

Refused is what would break a session. What only makes it worse is a warning.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from understudy.config import KINDS
from understudy.core.session import DEADLINES, State
from understudy.core.wire import Heard
from understudy.seams import Model
from understudy.worker.declared import Refused, Watched, check_attributes, check_params, located
from understudy.worker.likeness import (
    NOISE_AT_S,
    Signal,
    alike_db,
    furthest,
    late_samples,
    speech_like,
)
from understudy.worker.loading import build_model
from understudy.worker.slots import Slots, card_of, listens

SECONDS: Final = 1.0
LISTEN_S: Final = 4.0  # of a listener, which has less to say
CHUNK_S: Final = 0.020  # what an edge sends at a time, about
ANY_RATE_HZ: Final = 24_000  # for a model that takes any
ALIKE: Final = 1e-4 * 32768  # how far a slot alone may be from the same slot in a batch
ALIKE_DB: Final = 60.0  # and a primed one from the one that stayed
SETTLED_S: Final = 0.010  # ... from here on: until then the two are crossfaded
CUTS_S: Final = (0.31, 0.63)  # where the primed one starts to listen
PRIME_MAX_S: Final = DEADLINES[State.MOVING] / 2
LATE_S: Final = 0.030


def try_out(spec: Mapping[str, Any], path: Path | None) -> dict[str, Any]:
    """Builds, loads and runs a model; returns the result's fields. Raises Refused.

    `path`: the folder of its bundle, on sys.path already; mistakes are located in it.
    """
    kind = spec.get("kind", "convert")
    if kind not in KINDS:
        raise Refused(
            f"this version serves models of the kinds {' and '.join(KINDS)}; the seam of {kind!r} "
            "is described in docs/models.md, and a later release will serve it"
        )
    device, params = spec.get("device", "cpu"), spec.get("params", {})
    with located("the engine", path):
        model = build_model(spec["engine"], spec["slots"], spec.get("options", {}))
    check_attributes(model, spec["slots"], kind)
    declared = card_of(model)
    started = time.perf_counter()
    # In a thread, as in a worker.
    with located(f"load({device!r})", path), ThreadPoolExecutor(1) as pool:
        pool.submit(model.load, device).result()
    load_s = time.perf_counter() - started
    check_attributes(model, spec["slots"], kind)
    check_params(params, model.controls)
    warnings = []
    if card_of(model) != declared:
        warnings.append(
            "load() changes what the constructor declared (sample_rate, frame, latency_samples, "
            "context_s or controls); declare it right from the start, `voices` lists it unloaded"
        )
    trial = Trial(model, params, path)
    trial.run(warnings)
    return {
        "card": card_of(model).dump(),
        "load_s": round(load_s, 3),
        "warnings": warnings,
        "step_ms": trial.step_ms,
        "realtime_factor": round(trial.realtime_factor, 4),
    }


class Trial:
    """Runs a loaded model in its slots, as a worker would, and looks at what it says."""

    def __init__(self, model: Model, params: Mapping[str, float], path: Path | None) -> None:
        self._model = model
        self._params = params
        self._path = path
        self._rate = model.sample_rate or ANY_RATE_HZ
        self._chunk = model.frame * max(1, math.ceil(self._rate * CHUNK_S / model.frame))
        self.step_ms = {"p50": 0.0, "p95": 0.0}
        self.realtime_factor = 0.0  # of all slots together; below 1 they keep up
        self._listens = listens(model)
        self._said: list[Heard] = []  # by a listener, in the last performance

    def run(self, warnings: list[str]) -> None:
        """Raises Refused; appends to `warnings`."""
        slots = self._model.slots
        # Whole chunks, and a few of them however long a frame is.
        samples = (LISTEN_S if self._listens else SECONDS) * self._rate
        samples += self._model.latency_samples
        chunks = max(4, math.ceil(samples / self._chunk))
        seconds = chunks * self._chunk / self._rate
        lines = {slot: speech_like(self._rate, seconds, slot) for slot in range(slots)}
        # The first steps of many engines compile; that is no measure of the rest.
        self._perform({slot: line[: 2 * self._chunk] for slot, line in lines.items()})
        watched = Watched(self._model, self._path)
        together = self._perform(lines, watched=watched)
        self._time(watched, warnings)
        self._check_latency(lines[0], together[0], warnings)
        few = {slot: lines[slot] for slot in {0, slots - 1}}
        said = labels_of(self._said, few)
        apart = self._perform(few, in_turns=True)
        worst = max(furthest(apart[slot], together[slot]) for slot in few)
        if said != labels_of(self._said, few):
            warnings.append(
                "a slot stepped alone gives other labels than the same slot in a full batch: step "
                "must touch the active slots' state only"
            )
        if worst > ALIKE:
            warnings.append(
                f"a slot stepped alone is {worst / 32768:.2g} of full scale off the same slot in a "
                "full batch: step must touch the active slots' state only, and draw no random "
                "numbers that are not the slot's own"
            )
        self._check_priming(warnings)
        self._turn_every_knob()

    def _perform(
        self,
        lines: Mapping[int, Signal],
        *,
        start: int = 0,
        chunk: int = 0,
        in_turns: bool = False,
        watched: Watched | None = None,
    ) -> dict[int, Signal]:
        """Each line of samples through the slot of that number: what the sessions would hear,
        from position max(0, start - latency) on. `in_turns`: one slot a step."""
        slots = Slots(cast(Model, watched or Watched(self._model, self._path)))
        chunk = chunk or self._chunk
        heard: dict[int, list[bytes]] = {slot: [] for slot in lines}
        self._said = []
        for slot in lines:
            with located(f"open({slot}, {dict(self._params)})", self._path):
                slots.open(slot, start, self._params)

        def drain() -> None:
            while slots.due:
                for output in slots.step():
                    heard[output.slot].append(output.pcm)
                self._said += slots.heard

        for at in range(0, max(map(len, lines.values())), chunk):
            for slot, line in lines.items():
                slots.feed(slot, start + at, line[at : at + chunk].tobytes())
                if in_turns:
                    drain()
            drain()
        return {slot: np.frombuffer(b"".join(pcm), np.int16) for slot, pcm in heard.items()}

    def _time(self, watched: Watched, warnings: list[str]) -> None:
        took_ms = np.array([seconds for seconds, _ in watched.steps]) * 1e3
        self.step_ms = {
            "p50": round(float(np.percentile(took_ms, 50)), 3),
            "p95": round(float(np.percentile(took_ms, 95)), 3),
        }
        audio_s = sum(samples for _, samples in watched.steps) / self._rate
        self.realtime_factor = float(took_ms.sum()) / 1e3 / audio_s
        if self.realtime_factor > 1:
            slots = self._model.slots
            warnings.append(
                f"slower than real time on this machine with its {slots} slots busy: "
                f"{self.realtime_factor:.2g} s of work for 1 s of audio, so there will be gaps; "
                "serve fewer slots, or a faster device"
            )

    def _check_latency(self, said: Signal, heard: Signal, warnings: list[str]) -> None:
        # Of the syllables and the pause: a model may rightly make nothing of the noise.
        end = min(round(NOISE_AT_S * self._rate), len(heard))
        late = late_samples(said[:end], heard[:end], self._rate // 200)
        declared = self._model.latency_samples
        if abs(late) >= LATE_S * self._rate:
            warnings.append(
                f"the output is about {late / self._rate * 1e3:+.0f} ms off what latency_samples = "
                f"{declared} promises (about {declared + late} would be true): a session that "
                "moves to or from this voice will stutter"
            )

    def _check_priming(self, warnings: list[str]) -> None:
        """Two sessions with one input, the second of which heard the last context_s only."""
        model, grid = self._model, self._model.alignment_samples
        context = math.ceil(model.context_s * self._rate)
        took_s = model.context_s * self.realtime_factor
        if took_s > PRIME_MAX_S:
            warnings.append(
                f"context_s = {model.context_s:g} takes about {took_s:.0f} s to hear again, which "
                "is too long for a session to move; whether it is enough was not checked"
            )
            return
        # Half a second to compare (of labels more), and as much as the model withholds.
        tail = self._rate // 2 + model.latency_samples + 2 * model.frame
        tail += round(LISTEN_S * self._rate) if self._listens else 0
        cuts = [math.ceil(cut_s * self._rate / grid) * grid for cut_s in CUTS_S]
        line = speech_like(self._rate, (cuts[-1] + context + tail) / self._rate + 0.1, 7)
        stayed = self._perform({0: line})[0]
        said = self._said
        burst = model.frame * max(model.burst, self._chunk // model.frame)  # catching up is faster
        worst = math.inf
        for cut in cuts:
            end = cut + context + tail
            slot = model.slots - 1
            moved = self._perform({slot: line[cut:end]}, start=cut, chunk=burst)[slot]
            wanted, got = (
                [(one.label, one.at) for one in heard if cut + context < one.at <= end - burst]
                for heard in (said, self._said)
            )
            if wanted != got:
                worst = -math.inf
            at = cut + context + round(SETTLED_S * self._rate)
            skipped = at - max(0, cut - model.latency_samples)
            worst = min(worst, alike_db(stayed[at:], moved[skipped:]))
        if worst < ALIKE_DB:
            what = "its labels" if worst < 0 else f"they agree to {worst:.0f} dB"
            warnings.append(
                f"a slot primed with context_s = {model.context_s:g} differs from one that was "
                f"never moved ({what}; {ALIKE_DB:.0f} dB is inaudible): a "
                "session that moves will be heard to; raise context_s, set alignment_samples to "
                "the model's own grid, let old input fade from the state, or (where burst > 1) "
                "make one long step equal to many short ones"
            )

    def _turn_every_knob(self) -> None:
        for name, control in self._model.controls.items():
            for value in (control.min, control.max, control.default):
                with located(f"set_params(0, {{{name!r}: {value:g}}})", self._path):
                    self._model.set_params(0, {name: float(value)})


def labels_of(heard: Iterable[Heard], slots: Collection[int]) -> set[tuple[int, str, int]]:
    return {(one.slot, one.label, one.at) for one in heard if one.slot in slots}
