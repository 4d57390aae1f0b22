"""The ledger's arithmetic: nothing heard is lost or counted twice, however it is cut."""

from hypothesis import given
from hypothesis import strategies as st

from understudy.core.ledger import LONGEST_S, Interval, Meter, Role, add_up


@given(
    st.lists(st.tuples(st.integers(0, 40_000), st.sampled_from(["heard", "moved", "written"]))),
)
def test_intervals_add_up_to_what_was_heard(moves: list[tuple[int, str]]) -> None:
    meter, heard, written = Meter(1000), 0, dict[int, int]()

    def write() -> None:
        while taken := meter.take(heard):
            seq, samples = taken
            assert samples >= written.get(seq, 0)
            written[seq] = samples

    for samples, what in moves:
        heard += samples
        if what != "heard":
            write()
        if what == "moved":
            meter.performer(heard)
    write()
    assert sum(written.values()) == heard
    assert sorted(written) == list(range(len(written)))
    longest = max([samples for samples, _ in moves], default=0)
    assert len(written) <= 1 + len(moves) + heard / (LONGEST_S * 1000) + longest


def test_uses_are_by_user_and_voice() -> None:
    def interval(user: str, session: str, role: Role, samples: int) -> Interval:
        return Interval(session, 0, user, "miku", "m", "w", "sf", role, 1000, samples, 0.0)

    alice, bob = add_up(
        [
            interval("bob", "s3", Role.LEAD, 500),
            interval("alice", "s1", Role.LEAD, 1000),
            interval("alice", "s1", Role.UNDERSTUDY, 250),
            interval("alice", "s2", Role.LEAD, 2000),
        ]
    )
    assert (alice.user, alice.sessions, alice.lead_s, alice.understudy_s) == ("alice", 2, 3.0, 0.25)
    assert (bob.user, bob.sessions, bob.lead_s, bob.understudy_s) == ("bob", 1, 0.5, 0.0)
