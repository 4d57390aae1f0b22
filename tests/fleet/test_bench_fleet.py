"""The benchmarks of real processes, at their smallest: that they measure, and what they compare.
No timings: those are for a machine that does nothing else."""

import numpy as np
import pytest

from tests.speech import speech
from understudy.bench import connect, move
from understudy.bench.machine import find_audio
from understudy.bench.server import FADE, RATE_HZ, figure, handover, spread_ms


def test_connect_hears_the_voice_from_the_first_sample_on() -> None:
    lines: list[str] = []
    result = connect.run(find_audio(None), quick=True, progress=lines.append)
    effort = connect.QUICK
    for where, role in (("warm", "lead"), ("from_zero", "understudy")):
        found = result[where]
        assert found["first_by"] == {role: found["connects"]}
        assert found["identical"] == found["connects"]
        assert found["silent_ms"] == 0
        assert found["voice_latency_ms"] == 40
        # Nobody is heard before the model could have answered.
        assert min(found["first_output_ms"].values()) >= 60
        assert min(found["beyond_ms"].values()) >= 0
    assert result["warm"]["connects"] == effort.sequential + effort.bursts * effort.free
    assert result["from_zero"]["connects"] == effort.from_zero
    assert result["from_zero"]["lead_after_load_ms"]["p50"] > 0
    assert lines
    assert {f["name"] for f in result["figures"]} <= set(_named(connect.table(result)))


def test_moves_are_heard_of_by_nobody() -> None:
    result = move.run(find_audio(None), quick=True)
    planned, covered = result["planned"], result["understudy_to_lead"]
    assert planned["moves"] >= move.QUICK.moves
    assert planned["takeovers_heard"] == planned["moves"]
    assert planned["samples_compared"] > RATE_HZ
    wrong = ("missing", "repeated", "different", "in_crossfades", "fell_back_to_understudy")
    assert {name: planned[name] for name in wrong} == dict.fromkeys(wrong, 0)
    assert planned["identical"]
    assert planned["snr_db"] is None
    assert planned["silent_ms"] == 0
    assert planned["click_ratio"]["max"] == 1.0
    assert planned["extra"]["busy_ms_per_stream_second_at_rest"] > 0
    assert covered["clean"] == covered["moves"] >= move.QUICK.sessions
    assert covered["audible"] >= move.QUICK.covered
    assert covered["click_ratio"]["max"] <= 1.0
    assert {f["name"] for f in result["figures"]} <= set(_named(move.table(result)))


def _named(table: str) -> list[str]:
    return [line.split("  ")[0] for line in table.splitlines()]


def test_what_is_wrong_with_a_stream_is_told_apart() -> None:
    unmoved = speech(RATE_HZ, 3.0)
    lives = [RATE_HZ // 2, 2 * RATE_HZ]
    assert move.compare(unmoved, unmoved, lives) == []
    loud = RATE_HZ + int(np.abs(unmoved[RATE_HZ : RATE_HZ + RATE_HZ // 2].astype(int)).argmax())

    def kinds(heard: np.ndarray) -> list[str]:
        return [stretch.kind for stretch in move.compare(heard, unmoved, lives)]

    gap = unmoved.copy()
    gap[loud : loud + 480] = 0
    assert kinds(gap) == ["missing"]
    again = unmoved.copy()
    again[loud : loud + 480] = unmoved[loud - 480 : loud]
    assert kinds(again) == ["repeated"]
    skipped = np.concatenate([unmoved[:loud], unmoved[loud + 480 :], unmoved[:480]])
    assert set(kinds(skipped)) <= {"repeated", "different"}
    assert kinds(skipped)
    noisy = unmoved.copy()
    noisy[loud : loud + 480] += np.int16(9)
    assert kinds(noisy) == ["different"]
    for at, kind in ((lives[1] - FADE, "crossfade"), (lives[1] + FADE, "different")):
        faded = unmoved.copy()
        faded[at : at + FADE] += np.int16(9)
        assert kinds(faded) == [kind]
    before = unmoved.copy()
    before[: lives[0]] = 0  # the understudy's, not the lead's
    assert kinds(before) == []


def test_a_click_is_a_bend_that_the_stream_has_not() -> None:
    unmoved = speech(RATE_HZ, 2.0)
    at = RATE_HZ
    assert move.click_ratio(unmoved, (unmoved,), at, at + 960) == 1.0
    clicked = unmoved.copy()
    clicked[at + 480] = 32767
    ratio = move.click_ratio(clicked, (unmoved,), at, at + 960)
    assert ratio is not None
    assert ratio > 2
    assert move.click_ratio(unmoved, (unmoved,), len(unmoved), len(unmoved) + 960) is None


def test_a_handover_is_one_crossfade_and_nothing_else() -> None:
    # Two voices that are never alike.
    before, after = (
        speech(RATE_HZ, 2.0)[:RATE_HZ] // 2,
        speech(RATE_HZ, 2.0)[-RATE_HZ:] // 2 + 20000,
    )
    at = RATE_HZ // 2
    live = at + 2 * FADE
    weight = np.linspace(0, 1, FADE)
    fade = before[at : at + FADE] * (1 - weight) + after[at : at + FADE] * weight
    heard = np.concatenate([before[:at], np.rint(fade).astype(np.int16), after[at + FADE :]])
    found = handover(heard, before, after, live)
    assert found is not None
    assert at <= found.start < found.end <= at + FADE
    assert found.is_audible
    same = handover(before, before, before, live)  # a pause, say
    assert same is not None
    assert not same.is_audible
    assert handover(before, before, after, live) is None
    assert handover(after, before, after, live) is None
    assert handover(heard[:-1], before, after, live) is None
    assert handover(heard, before, after, at) is None
    broken = heard.copy()
    broken[at - 4000 : at - 3900] += np.int16(5)
    assert handover(broken, before, after, live) is None


@pytest.mark.parametrize(("value", "met"), [(9.0, True), (10.0, True), (10.5, False)])
def test_a_figure_knows_whether_its_target_is_met(value: float, met: bool) -> None:
    assert figure("x", value, "ms", at_most=10.0)["met"] is met
    assert figure("x", value)["met"] is None
    assert spread_ms([value / 1e3] * 20)["p95"] == pytest.approx(value)
