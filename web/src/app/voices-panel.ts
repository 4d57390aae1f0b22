// The voice picker: a radio card for each voice that the server has.
import type { Voice } from "../sdk/index.ts";
import { byId, create, setText } from "./dom.ts";
import { save, settings } from "./settings.ts";

export class VoicesPanel {
  private voices: readonly Voice[] = [];
  private readonly list = byId("voices");
  private readonly empty = byId("voices-empty");

  constructor(private readonly onPick: (voice: Voice) => void) {}

  get picked(): Voice | null {
    return this.voices.find((v) => v.name === settings.voice) ?? this.voices[0] ?? null;
  }

  show(voices: readonly Voice[]): void {
    this.voices = voices;
    this.say(voices.length === 0 ? "The server has no voices yet. Deploy one, then reload." : "");
    const picked = this.picked;
    const focused = this.list.contains(document.activeElement);
    this.list.replaceChildren(...voices.map((voice) => this.card(voice, voice === picked)));
    if (focused) this.list.querySelector<HTMLInputElement>("input:checked")?.focus();
    if (picked !== null) this.onPick(picked);
  }

  say(sentence: string): void {
    this.empty.hidden = sentence === "";
    setText(this.empty, sentence);
  }

  private card(voice: Voice, checked: boolean): HTMLElement {
    const title = voice.title || voice.name;
    const described = `facts-${voice.name}`;
    // The name alone: a voice whose understudy is Chipmunk must not be called by that, too.
    const input = create("input", {
      type: "radio",
      name: "voice",
      value: voice.name,
      "aria-label": title,
      "aria-describedby": described,
    });
    input.checked = checked;
    input.addEventListener("change", () => {
      save({ voice: voice.name });
      this.onPick(voice);
    });
    const facts: string[] = [];
    const labels = voice.labels ?? [];
    if (voice.kind === "listen") facts.push(`hears ${labels.slice(0, 4).join(", ")}`);
    else if (voice.latency_ms !== null) facts.push(`${Math.round(voice.latency_ms)} ms`);
    if (voice.sample_rate !== null) facts.push(`${voice.sample_rate / 1000} kHz`);
    if (voice.understudy !== null && voice.understudy !== "none") {
      facts.push(`understudy ${voice.understudy}`);
    }
    const ready = voice.ready
      ? create("span", { class: "badge ready" }, "ready")
      : create("span", { class: "badge" }, "loads first");
    return create(
      "label",
      { class: "voice-card" },
      input,
      create("span", { class: "voice-title" }, title),
      ready,
      create("span", { class: "voice-facts", id: described }, facts.join(" · ")),
    );
  }
}
