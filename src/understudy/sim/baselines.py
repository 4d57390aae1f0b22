"""stub"""

from __future__ import annotations
from dataclasses import dataclass, field
from typing import Any
from understudy.core import scaling
from understudy.core.scaling_view import Memory, Plan, Request, Rules, View


@dataclass(frozen=True, slots=True)
class Understudy:
    """The production policy."""

    rules: Rules = field(default_factory=Rules)
    name: str = "understudy"
    has_understudy: bool = True

    def first(self) -> Memory:
        return Memory()

    def place(self, view: View, request: Request, memory: Memory) -> str | None:
        return scaling.place(view, self.rules, request)

    def decide(self, view: View, now: float, memory: Memory) -> tuple[Plan, Memory]:
        return scaling.decide(view, self.rules, now, memory)
