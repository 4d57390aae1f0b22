"""A session's slot on one worker, who is cast for it, and what a session needs of its edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from understudy.config import Voice
from understudy.core import wire
from understudy.core.errors import ModelFailed
from understudy.core.ledger import Role
from understudy.edge.links import WorkerLink

if TYPE_CHECKING:
    from understudy.edge.session import Session


class Client(Protocol):
    """What a session needs of its user's connection."""

    def send_event(self, event: wire.ServerEvent) -> None: ...

    def send_audio(self, pcm: bytes) -> None: ...

    def close(self, code: int, reason: str = "") -> None: ...


class Placing(Protocol):
    """What a session needs of the edge."""

    def seek(self, session: Session) -> None: ...

    def release(self, session: Session, part: Part) -> None: ...

    def promoted(self, session: Session, source: str | None, part: Part) -> None: ...

    def meter(self, session: Session) -> None: ...

    def ended(self, session: Session) -> None: ...


@dataclass(frozen=True, slots=True)
class Casting:
    """Who performs in a role: the voice, and the card of its model."""

    voice: Voice
    card: wire.Card

    def params(self, wish: wire.Params) -> dict[str, float]:
        """The voice's numbers with the user's over them, as far as this model takes them."""
        controls = self.card.controls
        merged = dict(self.voice.params)
        for name, value in wish.items():
            if control := controls.get(name):
                merged[name] = min(max(value, control.min), control.max)
        return merged


class Part:
    """A session's slot on one worker (links.Performing)."""

    def __init__(
        self, session: Session, link: WorkerLink, slot: int, role: Role, casting: Casting, why: str
    ) -> None:
        self.session = session
        self.link = link
        self.slot = slot
        self.role = role
        self.casting = casting
        self.why = why  # it came, in a word or two
        self.is_open = False
        self.open_s: float | None = None  # since when

    @property
    def worker(self) -> str:
        return self.link.worker.id

    def answer(self, position: int, pcm: memoryview, step_s: float, now: float) -> None:
        self.session.answer(self, position, pcm, step_s, now)

    def heard(self, labels: list[wire.Heard]) -> None:
        self.session.hear(self, labels)

    def opened(self) -> None:
        self.is_open = True
        self.open_s = self.session.now()
        self.session.part_opened(self)

    def slot_lost(self) -> None:
        self.session.part_lost(self)

    def refused(self, message: str) -> None:
        self.session.fail(ModelFailed(f"{self.casting.voice.name}: {message}"))
