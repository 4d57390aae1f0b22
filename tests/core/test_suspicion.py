"""A session that kills its workers is told from those who only sat with it."""

from understudy.core.suspicion import APART_S, FATAL, FORGIVEN_S, QUICK_S, SUSPICIOUS, Suspicion


def test_worker_after_worker_that_dies_at_once_is_too_many() -> None:
    suspicion = Suspicion("s")
    for death in range(1, FATAL + 1):
        assert not suspicion.fatal
        now = 100.0 + 10.0 * death
        suspicion.died(now, now - 1.0, now - 1.0)
        assert suspicion.suspicious == (death >= SUSPICIOUS)
    assert suspicion.fatal


def test_a_worker_that_went_well_for_a_while_clears_it() -> None:
    suspicion = Suspicion("s")
    suspicion.died(100.0, 99.0, 99.0)
    suspicion.died(110.0, 101.0, 101.0)  # after more than QUICK_S
    assert suspicion.deaths == 0
    suspicion.died(111.0, None, 110.5)  # it never had it
    assert suspicion.deaths == 1
    suspicion.died(112.0 + FORGIVEN_S, None, 112.0 + FORGIVEN_S)
    assert suspicion.deaths == 1  # the one before is long ago


def test_who_came_last_is_suspected_first() -> None:
    here, new = Suspicion("here"), Suspicion("new")
    for death in range(10):
        now = 100.0 + 3.0 * death
        here.died(now, now - 2.0, now - 0.5)
        new.died(now, now - 0.5, now - 0.5)
    assert here.deaths == 0
    assert new.fatal


def test_those_who_are_kept_apart_come_back_one_by_one() -> None:
    ends = []
    for number in range(20):
        suspicion = Suspicion(f"s{number}")
        for now in (100.0, 101.0):
            suspicion.died(now, now - 0.1, now - 0.1)
        assert suspicion.is_apart
        ticks = [101.0 + tick / 100 for tick in range(round(APART_S * 130))]
        ends.append(next(now for now in ticks if suspicion.is_over(now)))
        assert not suspicion.is_apart
    assert max(ends) - min(ends) > APART_S / 2
    assert len({round(end, 1) for end in ends}) > 10
    assert QUICK_S < FORGIVEN_S
