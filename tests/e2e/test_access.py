"""Without a mouse, and without a screen."""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from understudy.bench.browser import Server

from .page import PATIENCE_MS, Stage

SHORTHAND = """
- banner:
  - link "Understudy, home"
  - 'button "Theme: system"'
- main:
  - region "Stage":
    - status:
      - heading "Ready when you are" [level=1]
      - paragraph: Pick a voice and press Start.
    - term: On stage
    - term: Time used
    - term: Mouth to ear
    - img /Waveforms/
    - meter "Microphone level"
    - meter "Voice level"
    - button "Start"
    - button "Record" [disabled]
    - switch "Hear the voice" [checked]
    - switch "Hear myself"
  - region "Voice":
    - heading "Voice" [level=2]
    - radiogroup "Voice":
      - radio /Chipmunk/ [checked]
      - radio /Giant/
  - region "You":
    - heading "You" [level=2]
    - textbox "Name"
    - combobox "Microphone"
    - combobox "Loudspeaker"
    - group "Let the browser":
      - switch "cancel echo"
      - switch "suppress noise"
      - switch "level loudness"
"""


def test_names_for_a_screen_reader(stage: Stage) -> None:
    expect(stage.page.locator("body")).to_match_aria_snapshot(SHORTHAND)


def test_by_keyboard_alone(stage: Stage) -> None:
    keys = stage.page.keyboard
    keys.press("Tab")
    expect(stage.page.get_by_role("link", name="Skip to Start")).to_be_focused()
    keys.press("Enter")
    expect(stage.button("Start")).to_be_focused()
    keys.press("Enter")
    stage.expect_state("Live")
    # The focus stays on the same button, which now stops.
    expect(stage.button("Stop")).to_be_focused()

    stage.page.get_by_role("radio", name="Chipmunk").focus()
    keys.press("ArrowDown")
    expect(stage.page.get_by_role("radio", name="Giant")).to_be_checked()
    expect(stage.page.get_by_text("Giant performs.")).to_be_visible(timeout=PATIENCE_MS)

    slider = stage.page.get_by_role("slider", name="Pitch")
    before = float(slider.input_value())
    slider.press("ArrowRight")
    assert float(slider.input_value()) > before

    hear = stage.page.get_by_role("switch", name="Hear the voice")
    hear.press("Space")
    expect(hear).not_to_be_checked()
    stage.button("Stop").press("Space")
    stage.expect_state("Stopped")


def test_nothing_overflows_a_phone(browser: Browser, server: Server) -> None:
    stage = Stage.open(browser, server.url, viewport={"width": 360, "height": 740}, is_mobile=True)
    widths = stage.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]
    stage.close()


def test_text_has_contrast_in_both_themes(browser: Browser, server: Server) -> None:
    """WCAG AA, 4.5 to 1, of every visible text against the first opaque colour behind it."""
    for scheme in ("light", "dark"):
        stage = Stage.open(browser, server.url, color_scheme=scheme)
        assert stage.page.evaluate(_LOW_CONTRAST) == []
        stage.close()


_LOW_CONTRAST = """() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b]
    .map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] > 0.9) return color;
    }
    return [255, 255, 255];
  };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || !element.checkVisibility() || element.closest(":disabled")) continue;
    const [a, b] = [parse(getComputedStyle(element).color), behind(element)].map(luminance);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${text}: ${ratio.toFixed(2)}`);
  }
  return low;
}"""
