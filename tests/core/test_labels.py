"""Each label is told once and in order, whoever listens."""

from hypothesis import given
from hypothesis import strategies as st

from understudy.core.audio import LATE_S, Resampler, SampleLock
from understudy.core.labels import Labels
from understudy.core.wire import Card, Heard

HZ = 16_000
CARD = Card(HZ, 160, 0, 1.0, 4, alignment=160, kind="listen", labels=("a", "b"))


def heard(at: int, label: str = "a", *, lasts: bool = False) -> Heard:
    return Heard(0, max(0, at - 100), at, label, 0.9, lasts)


def test_what_a_primed_slot_hears_again_is_not_told_again() -> None:
    labels = Labels()
    assert labels.tell([heard(100), heard(300)], 0) == [heard(100), heard(300)]
    assert labels.tell([heard(100), heard(300), heard(500)], 400) == [heard(500)]
    # It died between its last labels and the audio that they were about.
    assert labels.tell([heard(500), heard(700)], 400) == [heard(700)]


def test_a_newcomer_is_held_until_it_performs() -> None:
    labels = Labels()
    labels.hold([heard(100), heard(300), heard(500)], 200)
    assert labels.tell([heard(300)], 200) == [heard(300)]
    assert labels.join(400) == [heard(500)]
    labels.hold([heard(700)], 600)
    labels.part()
    assert labels.join(600) == []


def test_what_holds_is_told_when_it_changes() -> None:
    labels = Labels()
    speech, silence = heard(100, "speech", lasts=True), heard(500, "silence", lasts=True)
    assert labels.tell([speech], 0) == [speech]
    # The newcomer did not know yet what held; then it says what was said already.
    again = heard(400, "speech", lasts=True)
    assert labels.tell([again, silence], 300) == [silence]


turns = st.tuples(
    st.integers(1, 150),  # it listens to so much that nobody had heard
    st.integers(0, 200),  # it was primed with so much before
    st.integers(0, 150),  # so much of that while the one before it performed
    st.booleans(),  # its last label came, but not the audio that says how far it has listened
)


@given(st.sets(st.integers(1, 400), max_size=30), st.lists(turns, max_size=6))
def test_over_any_moves_each_label_is_told_once_and_in_order(
    ats: set[int], moves: list[tuple[int, int, int, bool]]
) -> None:
    line = [heard(at) for at in sorted(ats)]
    labels, told, listened = Labels(), list[Heard](), 0
    for length, context, held, cut_short in [*moves, (400, 0, 0, False)]:
        end = listened + length
        mine = [one for one in line if listened - context < one.at <= end]
        labels.hold([one for one in mine if one.at <= listened + held], listened)
        told += labels.join(listened)
        told += labels.tell([one for one in mine if one.at > listened + held], listened)
        listened = end - cut_short
    assert told == line


def test_input_that_nobody_has_heard_is_kept_for_whoever_listens_next() -> None:
    lock = SampleLock(HZ, _no_resampling, CARD)
    second = bytes(2 * HZ)
    for now in range(5):
        lock.feed(second, float(now))
    lock.answer(0, bytes(2 * 2 * HZ), 0.0, 5.0)
    for now in range(5, 12):  # nobody answers
        lock.feed(second, float(now))
        lock.give_up(float(now))
    assert lock.listened == 2 * HZ
    position, pcm = lock.context(CARD)
    assert position <= 1 * HZ  # a second of context before what is still to be heard
    assert position + len(pcm) // 2 == 12 * HZ
    for now in range(12, 60):
        lock.feed(second, float(now))
    position, _ = lock.context(CARD)
    assert 60 - LATE_S - 4 <= position / HZ <= 60 - LATE_S - 1


def test_a_listener_and_a_converter_do_not_stand_in_for_each_other() -> None:
    converter = Card(HZ, 160, 0, 1.0, 4)
    assert SampleLock(HZ, _no_resampling, CARD).fits(CARD)
    assert not SampleLock(HZ, _no_resampling, CARD).fits(converter)
    assert not SampleLock(HZ, _no_resampling, converter).fits(CARD)


def _no_resampling(from_hz: int, to_hz: int) -> Resampler:
    raise AssertionError("the rates agree")
