"""What a model says of itself, and what goes wrong in it: refused in a sentence."""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from understudy.core.errors import ConfigError
from understudy.core.wire import MAX_RATE_HZ, MIN_RATE_HZ, Control, Heard
from understudy.seams import Listening, Model

_INTEGERS: Final = {
    "frame": (1, math.inf, "1 or more samples"),
    "burst": (1, math.inf, "1 or more frames"),
    "slots": (1, 1024, "1 to 1024"),
    "latency_samples": (0, math.inf, "0 or more samples"),
    "alignment_samples": (1, math.inf, "1 or more samples"),
}


class Refused(Exception):
    """Why a model may not serve, in a sentence."""


def check_attributes(model: Model, slots: int, kind: str = "convert") -> None:
    """Raises Refused if an attribute of seams.Model (or, of a listener, of seams.Listening) is
    missing or makes no sense."""
    wanted = [*Model.__annotations__, "load", "open", "set_params", "step"]
    if kind == "listen":
        wanted += ["labels", "events"]
    elif hasattr(model, "events"):
        raise Refused('the model has `events`, so it listens; write kind = "listen" in voice.toml')
    if missing := [name for name in wanted if not hasattr(model, name)]:
        raise Refused(f"the model lacks {', '.join(missing)}; seams.Model says what each is")
    for name, (low, high, said) in _INTEGERS.items():
        value = getattr(model, name)
        if type(value) is not int or not low <= value <= high:  # no bool, and no np.int64
            raise Refused(f"the model's {name} must be an int, {said}; it is {value!r}")
    rate = model.sample_rate
    if type(rate) is not int or not (rate == 0 or MIN_RATE_HZ <= rate <= MAX_RATE_HZ):
        raise Refused(
            f"the model's sample_rate must be an int, {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, or 0 for "
            f"any; it is {rate!r}"
        )
    context_s = model.context_s
    if type(context_s) not in (int, float) or not 0 <= context_s < math.inf:
        raise Refused(f"the model's context_s must be 0 or more seconds; it is {context_s!r}")
    if kind == "listen":
        _check_listening(cast(Listening, model))
    if model.slots != slots:
        raise Refused(
            f"the model has {model.slots} slots where voice.toml wants {slots}; take the "
            "constructor's `slots`"
        )
    if not isinstance(model.controls, Mapping):
        raise Refused(
            "the model's controls must be a dict of name: Control(min, max, default, unit)"
        )
    for name, control in model.controls.items():
        if not isinstance(control, Control):
            raise Refused(f"the control {name!r} must be a Control(min, max, default, unit)")
        try:
            sane = math.isfinite(control.min) and control.min <= control.default <= control.max
        except TypeError:
            sane = False
        if not sane or not control.max < math.inf:
            raise Refused(f"the control {name!r} needs numbers with min <= default <= max")


def _check_listening(model: Listening) -> None:
    labels = model.labels
    sane = isinstance(labels, list | tuple) and len(set(map(str, labels))) == len(labels) > 0
    if not sane or not all(isinstance(label, str) and label for label in labels):
        raise Refused(f"the model's labels must be a list of different names; it is {labels!r}")
    if model.latency_samples:
        raise Refused(
            "a listener's latency_samples must be 0: its labels come when they come, and say by "
            f"`start` and `at` what they are about; it is {model.latency_samples}"
        )


def check_params(params: Mapping[str, float], controls: Mapping[str, Control]) -> None:
    """Raises Refused if a voice's numbers are not what the model's controls allow."""
    for name, value in params.items():
        if (control := controls.get(name)) is None:
            known = ", ".join(controls) or "none"
            raise Refused(f"[params] has {name!r}, which the model does not; its controls: {known}")
        if not control.min <= value <= control.max:
            raise Refused(
                f"[params] has {name} = {value:g}; the model takes {control.min:g} to "
                f"{control.max:g} {control.unit}".rstrip()
            )


@contextmanager
def located(what: str, path: Path | None) -> Iterator[None]:
    """Makes an exception a Refused that says where in the bundle it was."""
    try:
        yield
    except Refused:
        raise
    except (Exception, SystemExit) as error:
        traceback.print_exc(file=sys.stderr)
        config = isinstance(error, ConfigError) and error.__cause__ is not None
        cause = (error.__cause__ if config else None) or error
        said = " ".join(f"{type(error).__name__}: {error}".split())[:400].rstrip(":")
        said = " ".join(str(error).split())[:400] if config else f"{what} raised {said}"
        frames = traceback.extract_tb(cause.__traceback__)
        inside = [one for one in frames if path and Path(one.filename).is_relative_to(path)]
        if path and inside:
            said += f" ({Path(inside[-1].filename).relative_to(path)}:{inside[-1].lineno})"
        raise Refused(f"{said}; the whole traceback is in the log") from None


class Watched:
    """The model, but what its steps return is looked at first: Slots would mend a NaN."""

    def __init__(self, model: Model, path: Path | None) -> None:
        self._model = model
        self._path = path
        self.steps: list[tuple[float, int]] = []  # (seconds, samples)
        self._active: NDArray[np.bool_] = np.zeros(0, np.bool_)
        if hasattr(model, "events"):
            self.events = self._events  # here and only then: it tells a listener

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def step(self, frames: NDArray[np.float32], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        started = time.perf_counter()
        self._active = active
        with located("step", self._path):
            made: Any = self._model.step(frames, active)
        self.steps.append((time.perf_counter() - started, frames.shape[1]))
        if not isinstance(made, np.ndarray):
            raise Refused(
                f"step returned a {type(made).__name__}; return a NumPy array (of a tensor: "
                ".cpu().numpy())"
            )
        if made.shape != frames.shape:
            raise Refused(
                f"step returned an array of shape {made.shape} for frames of shape {frames.shape}; "
                "it must return as many samples as it was given, for every slot"
            )
        if made.dtype != np.float32:
            raise Refused(f"step returned {made.dtype}; return float32: .astype(np.float32)")
        if not (finite := np.isfinite(made[active])).all():
            row, sample = np.argwhere(~finite)[0].tolist()
            heard = frames[active][row]
            said = "silence" if not heard.any() else f"input up to {np.abs(heard).max():.2g}"
            raise Refused(
                f"step made NaN or infinity of {said} (slot {np.flatnonzero(active)[row]}, sample "
                f"{sample} of the step); guard its divisions, logarithms and roots"
            )
        return made

    def _events(self) -> list[Heard]:
        model = cast(Listening, self._model)
        with located("events", self._path):
            heard = [Heard(*one) for one in model.events()]
        last: dict[int, int] = {}
        samples = self.steps[-1][1]
        for one in heard:
            known = isinstance(one.slot, int) and 0 <= one.slot < len(self._active)
            if not known or not self._active[one.slot]:
                raise Refused(f"{one}: events are of the slots that were active in the last step")
            if not (0 < one.at <= samples and one.start <= one.at):
                raise Refused(
                    f"{one}: `at` counts from the step's first sample, so it is 1 to {samples} "
                    "here, and `start` is no later"
                )
            if one.label not in model.labels or not math.isfinite(one.score):
                raise Refused(f"{one}: a label is one of `labels`, and its score a number")
            if one.at <= last.get(one.slot, 0):
                raise Refused(f"{one}: a slot has its events in order, and one an `at`")
            last[one.slot] = one.at
        return heard
