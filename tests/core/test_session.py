"""The table: every session ends, whatever happens to it, and gives its slots back once."""

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
        assert effects.index(Effect.SEEK) < effects.index(Effect.OPEN)
    came = effects.count(Effect.OPEN)
    assert effects.count(Effect.PROMOTE) + effects.count(Effect.DROP) <= came
    if Effect.ABANDON in effects:
        assert effects[-3:] == [Effect.ABANDON, Effect.RELEASE, Effect.FINISH]


class Seats:
    """A session's two seats, as its edge fills them: the table must fit whatever happens."""

    def __init__(self) -> None:
        self.state = State.NEW
        self.performs = self.comes = self.opened = self.released = False

    @property
    def possible(self) -> list[Event]:
        """What may happen to a session that has these seats."""
        events = {Event.STOP, Event.CLIENT_LOST, Event.DEADLINE}
        events |= {Event.TAKEN_OVER, Event.FAIL, Event.SHUTDOWN}
        if self.state is State.NEW:
            events.add(Event.START)
        if self.state is State.DETACHED:
            back = Event.RESUME if self.performs or self.comes else Event.RESUME_SEATLESS
            events = (events - {Event.STOP}) | {back}
        if not self.comes and (self.state, Event.SLOT) in TABLE:
            events.add(Event.SLOT)
        if self.comes and not self.opened:
            events.add(Event.OPENED)
        if self.state is State.MOVING and self.opened:
            events.add(Event.CROSSED)
        if self.comes:
            events.add(Event.COMING_LOST)
        if self.performs:
            events.add(Event.SLOT_LOST)
        if self.state is State.FLUSHING:
            events.add(Event.FLUSHED)
        return sorted(events)

    def on(self, event: Event) -> None:
        self.opened |= event is Event.OPENED
        if event is Event.SLOT:
            self.comes, self.opened = True, False
        if event is Event.COMING_LOST:
            self.comes = False
        if event is Event.SLOT_LOST:
            self.performs = False
        self.state, effects = advance(self.state, event)
        for effect in effects:
            if effect is Effect.REJOIN:
                held = self.performs or self.comes
                self.performs, self.comes, self.opened = False, held, False
            elif effect is Effect.PROMOTE:
                assert self.comes
                assert self.opened
                self.performs, self.comes = True, False
            elif effect is Effect.DROP:
                assert self.comes
                self.comes = False
            elif effect is Effect.OPEN:
                assert self.comes
            elif effect is Effect.RELEASE:
                self.performs = self.comes = False
        if event is Event.SLOT_LOST and self.comes and self.opened:
            self.on(Event.OPENED)  # it is ready to go on


@given(st.data())
def test_the_seats_fit_the_state_whatever_happens(data: st.DataObject) -> None:
    seats = Seats()
    for _ in range(data.draw(st.integers(0, 30))):
        if seats.state is State.ENDED:
            break
        seats.on(data.draw(st.sampled_from(seats.possible)))
        match seats.state:
            case State.NEW | State.WAITING | State.LEAVING | State.ENDED:
                assert (seats.performs, seats.comes) == (False, False)
            case State.OPENING:
                assert (seats.performs, seats.comes) == (False, True)
            case State.LIVE:
                assert (seats.performs, seats.comes) == (True, False)
            case State.MOVING:
                assert (seats.performs, seats.comes) == (True, True)
            case State.DETACHED:
                assert not (seats.performs and seats.comes)
            case _:
                assert seats.performs != seats.comes


def run(*events: Event) -> tuple[State, list[Effect]]:
    state, effects = State.NEW, list[Effect]()
    for event in events:
        state, more = advance(state, event)
        effects += more
    return state, effects


LIVE = (Event.START, Event.SLOT, Event.OPENED)
MOVING = (*LIVE, Event.SLOT, Event.OPENED)


def test_a_move_is_promoted_once_it_has_crossed() -> None:
    state, effects = run(*MOVING, Event.CROSSED)
    assert state is State.LIVE
    assert effects == [Effect.SEEK, Effect.OPEN, Effect.PROMOTE, Effect.OPEN, Effect.PROMOTE]


def test_a_move_that_takes_too_long_is_given_up_and_sought_again() -> None:
    state, effects = run(*MOVING, Event.DEADLINE)
    assert state is State.LIVE
    assert effects[-2:] == [Effect.DROP, Effect.SEEK]
    assert State.MOVING in DEADLINES


def test_either_of_two_performers_may_die_and_the_other_goes_on() -> None:
    state, effects = run(*MOVING, Event.COMING_LOST)
    assert (state, effects[-1]) == (State.LIVE, Effect.SEEK)
    state, effects = run(*MOVING, Event.SLOT_LOST, Event.OPENED)
    assert (state, effects[-1]) == (State.LIVE, Effect.PROMOTE)
    state, effects = run(*MOVING, Event.SLOT_LOST, Event.COMING_LOST)
    assert (state, effects[-1]) == (State.WAITING, Effect.SEEK)


def test_who_stops_or_is_cut_off_while_moving_gives_the_second_slot_back() -> None:
    for event, after in ((Event.STOP, State.FLUSHING), (Event.CLIENT_LOST, State.DETACHED)):
        state, effects = run(*MOVING, event)
        assert state is after
        assert Effect.DROP in effects


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
    assert {state for state, event in TABLE if event is Event.DEADLINE} <= set(DEADLINES)


def test_the_drawing_in_the_docs_is_the_table() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    assert diagram() in docs
