"""What a listener's user is told: each label once and in order, whoever listens."""

from __future__ import annotations

from collections.abc import Iterable

from understudy.core.wire import Heard, Label


def as_event(session: str, heard: Heard, ratio: float, received: int) -> Label:
    """What the user is told. `ratio`: their samples to one of the model's; `received`: theirs so
    far, for the silence that ends a stream is heard, too."""
    at, start = (min(received, round(k * ratio)) for k in (heard.at, heard.start))
    return Label(session, heard.label, round(heard.score, 3), at, start, heard.lasts)


class Labels:
    """The labels of one session on their way to its user.

    Who is primed for a move hears again what was told, and may hear what the one before it has
    yet to say. So a position that was told of is not told of again; the newcomer's are held until
    it performs; and what holds until the next label is told when it changes.
    """

    def __init__(self) -> None:
        self._at = -1  # of the last one told
        self._lasting = ""  # the label that holds
        self._held: list[Heard] = []

    def tell(self, heard: Iterable[Heard], listened: int) -> list[Heard]:
        """Of what the performer says, what is news; `listened`: all before is told."""
        news = []
        for one in heard:
            if one.at <= max(self._at, listened):
                continue
            self._at = one.at
            if one.lasts:
                if one.label == self._lasting:
                    continue
                self._lasting = one.label
            news.append(one)
        return news

    def hold(self, heard: Iterable[Heard], listened: int) -> None:
        """What a newcomer says before it performs."""
        self._held = [one for one in [*self._held, *heard] if one.at > listened]

    def join(self, listened: int) -> list[Heard]:
        """The newcomer performs: what it said that is news."""
        held, self._held = self._held, []
        return self.tell(held, listened)

    def part(self) -> None:
        """The newcomer is gone."""
        self._held = []
