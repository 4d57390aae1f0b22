"""The table: every session ends, whatever happens to it, and gives its slot back once."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from understudy.core.session import DEADLINES, TABLE, Effect, Event, State, advance, diagram


@given(st.lists(st.sampled_from(list(Event)), max_size=40))
def test_any_run_of_events_keeps_the_promises(events: list[Event]) -> None:
    state, effects = State.NEW, list[Effect]()
    for event in events:
        state, more = advance(state, event)
        effects += more
    assert effects.count(Effect.FINISH) == (state is State.ENDED)
    assert effects.count(Effect.RELEASE) <= 1
    if Effect.SEEK in effects and state is State.ENDED:
        assert effects.count(Effect.RELEASE) == 1
        assert effects.index(Effect.RELEASE) < effects.index(Effect.FINISH)
    if Effect.OPEN in effects:
        assert Effect.SEEK in effects


def test_ended_is_final() -> None:
    assert all(state is not State.ENDED for state, _ in TABLE)
    assert all(advance(State.ENDED, event) == (State.ENDED, ()) for event in Event)


def test_every_state_can_end_by_takeover_failure_or_shutdown() -> None:
    for state in set(State) - {State.NEW, State.ENDED}:
        for event in (Event.TAKEN_OVER, Event.FAIL, Event.SHUTDOWN):
            assert advance(state, event)[0] is State.ENDED


def test_every_deadline_has_its_row() -> None:
    for state in set(DEADLINES) - {State.NEW}:
        assert (state, Event.DEADLINE) in TABLE


def test_the_drawing_in_the_docs_is_the_table() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    assert diagram() in docs
