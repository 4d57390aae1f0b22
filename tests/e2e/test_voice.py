"""What the page is for: speak, and hear the voice one picked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import expect

from understudy.bench.browser import f0_ratio

from .page import PATIENCE_MS, Stage

BOTH = "download both as stereo WAV"
VOICE = "download the voice as WAV"


def ratio(both: NDArray[np.float32], rate: int, from_s: float = 0.0) -> float:
    return f0_ratio(both[round(from_s * rate) :, 0], both[round(from_s * rate) :, 1], rate)


def semitones(number: float) -> float:
    return float(2 ** (number / 12))


def test_speaks_with_the_voice_and_gives_it_as_a_wav(stage: Stage, tmp_path: Path) -> None:
    stage.pick("Chipmunk")
    stage.start()
    stage.expect_state("Live")
    expect(stage.page.get_by_text("the lead", exact=True)).to_be_visible()
    stage.record_for(4)
    both, rate = stage.download(BOTH, tmp_path)
    voice, voice_rate = stage.download(VOICE, tmp_path)
    stage.stop()

    assert rate == voice_rate == 24_000
    assert voice.shape[1] == 1
    assert both.shape[1] == 2
    assert 3.5 < len(voice) / rate < 6
    np.testing.assert_array_equal(voice[:, 0], both[:, 1])
    assert np.abs(both).max(axis=0).min() > 0.05
    assert ratio(both, rate) == pytest.approx(semitones(7), rel=0.03)


def test_records_both_sides_at_the_same_instant(stage: Stage, tmp_path: Path) -> None:
    """The mirror gives the input back: sample k of one is sample k of the other."""
    stage.pick("Mirror")
    stage.start()
    stage.expect_state("Live")
    stage.record_for(2)
    both, _ = stage.download(BOTH, tmp_path)
    stage.stop()
    source, target = both[:, 0], both[:, 1]
    heard = np.flatnonzero(target)
    assert np.abs(source).max() > 0.05
    # The newest answers are still on their way when recording stops.
    body = slice(heard[0], heard[-1])
    assert body.stop - body.start > 0.8 * len(source)
    np.testing.assert_allclose(source[body], target[body], atol=2 / 32768)


def test_pitch_slider_changes_the_voice_while_talking(stage: Stage, tmp_path: Path) -> None:
    stage.pick("Chipmunk")
    stage.start()
    stage.expect_state("Live")
    stage.slide("Pitch", -5)
    stage.expect_time_used(2)
    stage.record_for(4)
    both, rate = stage.download(BOTH, tmp_path)
    assert ratio(both, rate, from_s=0.5) == pytest.approx(semitones(-5), rel=0.04)
    stage.button("Reset").click()
    expect(stage.page.get_by_role("slider", name="Pitch")).to_have_value("7")
    stage.stop()


def test_another_voice_while_talking(stage: Stage, tmp_path: Path) -> None:
    stage.pick("Chipmunk")
    stage.start()
    stage.expect_state("Live")
    stage.pick("Giant")
    expect(stage.page.get_by_text("Giant performs.")).to_be_visible(timeout=PATIENCE_MS)
    stage.record_for(4)
    both, rate = stage.download(BOTH, tmp_path)
    assert ratio(both, rate) == pytest.approx(semitones(-5), rel=0.04)
    stage.stop()


def test_settings_outlive_a_reload(stage: Stage) -> None:
    stage.pick("Giant")
    stage.page.get_by_label("Name").fill("alice")
    stage.page.get_by_label("Name").press("Enter")
    stage.page.get_by_role("switch", name="cancel echo").check()
    stage.page.reload()
    expect(stage.page.get_by_role("radio", name="Giant")).to_be_checked(timeout=PATIENCE_MS)
    expect(stage.page.get_by_label("Name")).to_have_value("alice")
    expect(stage.page.get_by_role("switch", name="cancel echo")).to_be_checked()


def test_the_waveforms_move_and_the_latency_panel_fills(stage: Stage) -> None:
    stage.pick("Mirror")
    stage.start()
    stage.expect_state("Live")
    stage.open_latency()
    playout = stage.page.get_by_role("row", name="playout").get_by_role("cell").first
    expect(playout).not_to_have_text("–", timeout=PATIENCE_MS)
    canvas = "() => document.querySelector('canvas').toDataURL()"
    before = stage.page.evaluate(canvas)
    stage.page.wait_for_function(f"(before) => ({canvas})() !== before", arg=before)
    meter = stage.page.get_by_role("meter", name="Microphone level")
    expect(meter).not_to_have_attribute("aria-valuetext", "silent")
    stage.stop()


def test_a_stalled_main_thread_costs_no_sound(stage: Stage, tmp_path: Path) -> None:
    """Sound never touches the page's own thread: the mirror's record has no hole and no step."""
    stage.pick("Mirror")
    stage.start()
    stage.expect_state("Live")
    stage.page.evaluate(
        """() => setInterval(() => {
          const end = performance.now() + 120;
          while (performance.now() < end);
        }, 500)"""
    )
    stage.record_for(3)
    both, rate = stage.download(BOTH, tmp_path)
    stage.stop()
    answered = np.flatnonzero(both[:, 1])
    body = slice(answered[0], answered[-1])
    assert body.stop - body.start > 2 * rate
    np.testing.assert_allclose(both[body, 0], both[body, 1], atol=2 / 32768)


def test_a_listener_shows_what_it_hears(stage: Stage) -> None:
    stage.pick("Speech or silence")
    stage.start()
    stage.expect_state("Listening")
    heard = stage.page.get_by_role("paragraph").filter(has_text="Heard")
    expect(heard.locator("strong")).to_have_text("speech", timeout=PATIENCE_MS)
    # What a screen reader is told, politely.
    aloud = stage.page.locator("[aria-live=polite]").filter(has_text="speech")
    expect(aloud).to_have_count(1, timeout=PATIENCE_MS)
    expect(heard.locator("strong")).to_have_text("silence", timeout=PATIENCE_MS)
    expect(stage.page.get_by_role("meter", name="Voice level")).to_be_hidden()
    expect(stage.page.get_by_role("slider", name="Threshold")).to_have_value("0.5")
    stage.stop()
    expect(stage.page.get_by_text("silent 0.0 s")).to_be_visible()
