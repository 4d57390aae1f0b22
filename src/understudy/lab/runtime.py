"""Owns serving an exported listener: ONNX Runtime and NumPy, no torch.

`Listener` hears whole clips; `Slots` many live streams in one batched step, with their caches;
`Stream` one live stream, in pieces of any length.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from understudy.core.errors import ConfigError
from understudy.lab.frontend import Floats, FrontEnd, Streaming
from understudy.lab.metadata import Metadata

KEPT_BINDINGS: Final = 8  # step lengths whose buffers are kept


def open_session(model: str | bytes, threads: int) -> Any:
    """An onnxruntime.InferenceSession on the CPU.

    One thread that does not spin is right for nets that run for 0.1 ms: handing work over takes
    longer than doing it, and spinning burns the cores that other streams need.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Listener:
    """An exported file, ready to hear. Audio is mono float32 in -1..1 at `frontend.rate_hz`.

    Scores are probabilities of the `labels`, adding up to 1, or with kind "embedding" a vector of
    length 1. Several threads may call `label` at once.
    """

    def __init__(self, path: Path | str, threads: int = 1) -> None:
        """Raises ConfigError if the file cannot be read, or is none of ours."""
        try:
            self.session = open_session(str(path), threads)
        except Exception as error:  # onnxruntime's own have no common class
            raise ConfigError(f"{path} is no ONNX file that can be loaded: {error}") from None
        props = self.session.get_modelmeta().custom_metadata_map
        self.metadata = Metadata.from_props(props, path)
        self.path = Path(path)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.metadata.labels

    @property
    def frontend(self) -> FrontEnd:
        return self.metadata.frontend

    def label(self, audio: Floats) -> Floats:
        """float32[samples] -> scores [labels]; [labels, frames] for a clip net of kind "frames".

        A clip shorter than those that the net was trained with is heard as they were: amid
        silence. A streaming file gives the scores at the clip's end, of its last window.
        """
        rows = self.label_batch(np.asarray(audio, np.float32)[None])
        one: Floats = rows[0]
        return one

    def label_batch(self, audio: Floats) -> Floats:
        """Clips of one length, float32[batch, samples] -> scores [batch, ...] as `label`."""
        scores = self.probabilities(self.raw(audio))
        if self.metadata.kind == "frames":
            heard = self.frontend.frames(audio.shape[1])
            begin = self._silence_before(heard)
            return np.asarray(scores[:, :, begin : begin + heard])
        return np.asarray(scores[:, :, -1]) if self.metadata.streaming else scores

    def raw(self, audio: Floats) -> Floats:
        """`label_batch` as the graph gives it: logits, of the silence around a clip, too."""
        found: Floats = self.session.run([self.metadata.output], self.given(audio))[0]
        return found

    def given(self, audio: Floats) -> dict[str, Floats]:
        """All inputs of the graph for such clips; a stream is at its start."""
        caches = self.metadata.caches.items()
        fresh = {name: np.zeros((len(audio), *shape), np.float32) for name, shape in caches}
        return {**self.inputs(audio), **fresh}

    def inputs(self, audio: Floats) -> dict[str, Floats]:
        """What the graph takes for such clips, except caches. Raises ConfigError: too short."""
        about, window = self.metadata, self.metadata.window_frames
        frames, hop = self.frontend.frames(audio.shape[1]), self.frontend.hop
        if max(frames, window) < about.min_frames or not frames:
            least = 1000 * hop * max(1, about.min_frames) / self.frontend.rate_hz
            raise ConfigError(f"the clip is too short; this net needs {least:.0f} ms or more")
        begin = self._silence_before(frames)
        if about.inside:
            clip = np.ascontiguousarray(audio[:, : frames * hop], np.float32)
            if frames < window:
                ends = (begin * hop, (window - frames - begin) * hop)
                clip = np.pad(clip, ((0, 0), ends))
            return {"audio": clip}
        features = self.frontend.batch(audio)
        if frames < window:
            whole = np.full((len(audio), about.frontend.bands, window), _silence(self.frontend))
            whole[:, :, begin : begin + frames] = features
            features = np.asarray(whole, np.float32)
        return {"features": features}

    def _silence_before(self, frames: int) -> int:
        """Frames of silence before a clip of that many: it lies in the middle of the window, as
        it does when `lab.listen` scores it."""
        return round(max(0, self.metadata.window_frames - frames) * 0.5)

    def probabilities(self, raw: Floats) -> Floats:
        """The softmax over axis 1; an embedding as it is."""
        if self.metadata.output == "embedding":
            return raw.copy()
        raised = raw - raw.max(axis=1, keepdims=True)
        np.exp(raised, out=raised)
        raised /= raised.sum(axis=1, keepdims=True)
        return np.asarray(raised)

    def slots(self, slots: int) -> Slots:
        return Slots(self, slots)

    def stream(self) -> Stream:
        return Stream(self)


@dataclass(slots=True)
class _Step:
    """The buffers of one step length, bound once: nothing is allocated or copied in a step."""

    given: Floats
    found: Floats
    bindings: tuple[Any, Any]  # from the one half of the caches into the other, and back


class Slots:
    """Live streams side by side, one a slot. Each slot's scores are those it would have alone."""

    def __init__(self, listener: Listener, slots: int) -> None:
        """Raises ConfigError if the file is not a streaming one."""
        about = listener.metadata
        if not about.streaming:
            raise ConfigError(
                f"{listener.path.name} hears whole clips; make the file for live audio with "
                "`understudy export CHECKPOINT --streaming`"
            )
        self.count = slots
        self._listener, self._session = listener, listener.session
        self._hop = listener.frontend.hop
        self._frontend = None if about.inside else Streaming(listener.frontend, slots)
        self._halves = tuple(
            {name: np.zeros((slots, *shape), np.float32) for name, shape in about.caches.items()}
            for _ in range(2)
        )
        self._now = 0  # which half holds the caches
        self._steps: dict[int, _Step] = {}

    def reset(self, slot: int) -> None:
        """The slot's stream starts anew."""
        for cache in self._halves[self._now].values():
            cache[slot] = 0.0
        if self._frontend is not None:
            self._frontend.reset(slot)

    def step(self, audio: Floats, active: NDArray[np.bool_] | None = None) -> Floats:
        """audio [slots, n·hop] -> scores [slots, n, labels], one row a hop.

        A slot that is not active is left untouched, and its rows are zeros.
        """
        if audio.shape[0] != self.count or not audio.shape[1] or audio.shape[1] % self._hop:
            raise ValueError(f"audio is {audio.shape}; a step takes [{self.count}, n·{self._hop}]")
        if active is not None and not active.all():
            return self._step_some(audio, active)
        scores = self._listener.probabilities(self._run(audio))
        return scores.swapaxes(1, 2)

    def raw(self, audio: Floats) -> Floats:
        """A step of all slots as the graph gives it: logits [slots, labels, n]."""
        return self._run(audio).copy()

    def _run(self, audio: Floats) -> Floats:
        """... in a buffer that the next step overwrites."""
        hops = audio.shape[1] // self._hop
        step = self._steps.get(hops) or self._bind(hops)
        np.copyto(step.given, audio if self._frontend is None else self._frontend.step(audio))
        self._session.run_with_iobinding(step.bindings[self._now])
        self._now ^= 1
        return step.found

    def _step_some(self, audio: Floats, active: NDArray[np.bool_]) -> Floats:
        """Only the active rows go through the net; the others' caches are not even read."""
        about = self._listener.metadata
        rows = np.flatnonzero(active)
        hops = audio.shape[1] // self._hop
        out = np.zeros((self.count, hops, self._size), np.float32)
        if not len(rows):
            return out
        if self._frontend is None:
            given = {"audio": np.ascontiguousarray(audio[rows], np.float32)}
        else:
            given = {"features": self._frontend.step(audio, active)[rows]}
        caches = self._halves[self._now]
        given |= {name: cache[rows] for name, cache in caches.items()}
        names = [about.output, *(f"next_{name}" for name in caches)]
        found = self._session.run(names, given)
        for cache, fresh in zip(caches.values(), found[1:], strict=True):
            cache[rows] = fresh
        out[rows] = self._listener.probabilities(found[0]).swapaxes(1, 2)
        return out

    @property
    def _size(self) -> int:
        about = self._listener.metadata
        return int(about.net["embedding"]) or len(about.labels)

    def _bind(self, hops: int) -> _Step:
        about = self._listener.metadata
        if about.inside:
            name, given = "audio", np.zeros((self.count, hops * self._hop), np.float32)
        else:
            bands = about.frontend.bands
            name, given = "features", np.zeros((self.count, bands, hops), np.float32)
        found = np.zeros((self.count, self._size, hops), np.float32)
        wrap = onnxruntime.OrtValue.ortvalue_from_numpy  # on a CPU they share the memory
        bindings = []
        for now in (0, 1):
            binding = self._session.io_binding()
            binding.bind_ortvalue_input(name, wrap(given))
            binding.bind_ortvalue_output(about.output, wrap(found))
            for cache in about.caches:
                binding.bind_ortvalue_input(cache, wrap(self._halves[now][cache]))
                binding.bind_ortvalue_output(f"next_{cache}", wrap(self._halves[1 - now][cache]))
            bindings.append(binding)
        if len(self._steps) >= KEPT_BINDINGS:
            self._steps.pop(next(iter(self._steps)))
        step = self._steps[hops] = _Step(given, found, (bindings[0], bindings[1]))
        return step


class Stream:
    """One live stream."""

    def __init__(self, listener: Listener) -> None:
        self._slots = Slots(listener, 1)
        self._hop = listener.frontend.hop
        self._rest = np.zeros(0, np.float32)

    def push(self, audio: Floats) -> Floats:
        """float32[any number of samples] -> scores [hops, labels], a row for each hop that is
        full now, maybe none."""
        whole = np.concatenate([self._rest, np.asarray(audio, np.float32)])
        end = len(whole) - len(whole) % self._hop
        self._rest = whole[end:]
        if not end:
            return np.zeros((0, self._slots._size), np.float32)
        scores = self._slots.step(whole[None, :end])
        one: Floats = scores[0]
        return one


def _silence(frontend: FrontEnd) -> np.float32:
    """The feature of no sound."""
    return np.float32((np.log(frontend.floor) - frontend.mean) / frontend.std)
