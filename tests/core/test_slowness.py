"""The worker that answers too late is found, and nobody else."""

from understudy.edge.slowness import WINDOW_S, Hearing, Watch


def looks(watch: Watch, *windows: dict[str, list[float]]) -> list[str | None]:
    """One look a window; by worker: what each of its sessions missed in it, as a share."""
    found, missed = [], dict[tuple[str, int], float]()
    for number, window in enumerate(windows):
        for worker, shares in window.items():
            for session, share in enumerate(shares):
                key = (worker, session)
                missed[key] = missed.get(key, 0.0) + share * WINDOW_S
        hearings = [Hearing(w, f"{w}{s}", total) for (w, s), total in missed.items()]
        found.append(watch.look(100.0 + number * WINDOW_S, hearings))
    return found


def test_a_slow_worker_beside_a_good_one_is_found() -> None:
    windows = [{"slow": [0.9, 0.6], "good": [0.0]}] * 3
    assert looks(Watch(), *windows) == [None, "slow", None]  # once, then it is given time


def test_one_session_that_misses_much_is_not_its_workers_fault() -> None:
    assert looks(Watch(), *[{"a": [1.0, 0.0], "b": [0.0]}] * 4) == [None] * 4


def test_where_all_are_slow_it_is_us_or_the_network() -> None:
    assert looks(Watch(), *[{"a": [0.9], "b": [0.8]}] * 4) == [None] * 4
    assert looks(Watch(), *[{"alone": [0.9]}] * 4) == [None] * 4


def test_who_has_just_come_is_not_judged() -> None:
    windows = [{"good": [0.0]}, {"good": [0.0], "new": [0.9]}, {"good": [0.0], "new": [0.9]}]
    assert looks(Watch(), *windows) == [None, None, "new"]


def test_after_an_absence_of_our_own_nobody_is_judged() -> None:
    watch = Watch()
    watch.look(100.0, [Hearing("slow", "s", 0.0), Hearing("good", "t", 0.0)])
    assert watch.look(160.0, [Hearing("slow", "s", 50.0), Hearing("good", "t", 0.0)]) is None
