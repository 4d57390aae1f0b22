"""The stream without a server: the same sample lock, slots and model, in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from understudy.config import Config, ModelSpec, Voice, check_params
from understudy.core.audio import SampleLock
from understudy.core.errors import BadParams, ConfigError
from understudy.core.wire import Card, Heard
from understudy.edge.listing import describe
from understudy.resample import SoxrResampler
from understudy.seams import Model
from understudy.worker.bundle_path import add_path, remove_path
from understudy.worker.loading import build_model
from understudy.worker.slots import Slots, card_of

BLOCK_S: Final = 0.1


class Pipe:
    """One session of a voice, driven by hand: bytes in, bytes out, sample-locked."""

    def __init__(
        self, spec: ModelSpec, voice: Voice, params: Mapping[str, float], rate_hz: int
    ) -> None:
        """Loads the model. Raises ConfigError or BadParams."""
        model = _build(spec, 1)
        model.load("cpu")
        card = card_of(model)
        self.lock = SampleLock(rate_hz, SoxrResampler, card)
        self.heard: list[Heard] = []  # by a listener, so far, at the rate of its model
        self._slots = Slots(model)
        try:
            check_params(voice, params, card.controls)
            self._slots.open(0, 0, {**voice.params, **params})
        except ValueError as error:
            raise BadParams(str(error)) from None

    def push(self, pcm: bytes) -> bytes:
        """int16 PCM in; what may leave by now."""
        return self._through(*self.lock.feed(pcm, 0.0))

    def finish(self) -> bytes:
        """The last samples: as many have come out as went in."""
        return self._through(*self.lock.finish(0.0))

    def set_params(self, params: Mapping[str, float]) -> None:
        """From the next sample pushed on. Raises BadParams."""
        self._slots.set_params(0, params)
        for _, message in self._slots.refused:
            raise BadParams(message)

    def _through(self, position: int, pcm: bytes) -> bytes:
        self._slots.feed(0, position, pcm)
        while outputs := self._slots.step() if self._slots.due else []:
            self.heard += self._slots.heard
            for output in outputs:
                self.lock.answer(output.position, output.pcm, 0.0, 0.0)
        return self.lock.take()


def open_pipe(config: Config, voice: str, params: Mapping[str, float], rate_hz: int) -> Pipe:
    """Raises UnknownVoice, BadParams or ConfigError."""
    chosen = config.voice(voice)
    return Pipe(config.models[chosen.model], chosen, params, rate_hz)


def convert_pcm(
    pcm: NDArray[np.int16],
    rate_hz: int,
    config: Config,
    voice: str,
    params: Mapping[str, float] | None = None,
    progress: Callable[[int], None] = lambda samples: None,
) -> NDArray[np.int16]:
    """A whole recording through a voice: output sample k answers input sample k.

    Raises what `open_pipe` does, and ConfigError where the voice is a listener.
    """
    pipe = open_pipe(config, voice, params or {}, rate_hz)
    if pipe.lock.listened is not None:
        raise ConfigError(
            f"{voice} listens, and gives labels, not audio; `understudy stream FILE --voice "
            f"{voice}` prints them"
        )
    block = max(1, round(rate_hz * BLOCK_S))
    parts = []
    for at in range(0, len(pcm), block):
        parts.append(pipe.push(pcm[at : at + block].tobytes()))
        progress(len(pcm[at : at + block]))
    parts.append(pipe.finish())
    return np.frombuffer(b"".join(parts), np.int16)


def describe_voices(config: Config) -> list[dict[str, Any]]:
    """What `GET /v1/voices` would list, with no server: models are asked without being loaded."""
    cards: dict[str, Card] = {}
    failures: dict[str, dict[str, str]] = {name: {} for name in config.models}
    for name, spec in config.models.items():
        try:
            cards[name] = card_of(_build(spec, spec.slots))
        except ConfigError as error:
            failures[name] = {spec.revision: error.message}
    return [
        describe(voice.name, config, cards.get(voice.model))
        | {"ready": False, "runs": {}, "failures": failures[voice.model]}
        for voice in config.voices.values()
    ]


def _build(spec: ModelSpec, slots: int) -> Model:
    """In this process: a deployed bundle's module is found by its folder, and by no other's."""
    if spec.path:
        add_path(spec.path)
    try:
        return build_model(spec.engine, slots, spec.options)
    finally:
        if spec.path:
            remove_path(spec.path)
            for name, found in list(sys.modules.items()):
                if str(getattr(found, "__file__", None) or "").startswith(spec.path):
                    del sys.modules[name]
