// The sliders of a voice, such as pitch and formant: live while talking.
import type { Control, Params, Voice } from "../sdk/index.ts";
import { paramsOf } from "./call.ts";
import { byId, create } from "./dom.ts";
import { display, stepFor } from "./format.ts";

/** A word for what a slider does, where the server's name for it is one we know. */
const NAMES: Readonly<Record<string, string>> = {
  pitch: "Pitch",
  formant: "Formant",
  robot: "Robot",
  robot_hz: "Robot's note",
  gain: "Loudness",
  threshold: "Threshold",
  hold: "Silence after",
  pause: "Pause between words",
};
/** Always in sight; a voice's other numbers are one click away. */
const FIRST: readonly string[] = ["pitch", "formant"];

/** Where the slider of a voice stands when nobody has touched it. */
function ownValue(voice: Voice, name: string, control: Control): number {
  return voice.params[name] ?? control.default;
}

export class ControlsPanel {
  private readonly card = byId("controls-card");
  private readonly list = byId("controls");
  private voice: Voice | null = null;
  private moreOpen = false;

  constructor(private readonly onChange: (voice: Voice, params: Params) => void) {
    byId("reset").addEventListener("click", () => this.reset());
  }

  show(voice: Voice): void {
    this.voice = voice;
    const controls = Object.entries(voice.controls);
    this.card.hidden = controls.length === 0;
    const params = paramsOf(voice);
    const sliders = new Map(
      controls.map(([name, control]) => {
        const own = ownValue(voice, name, control);
        return [name, this.slider(name, control, params[name] ?? own, own)];
      }),
    );
    const first = FIRST.filter((name) => sliders.has(name));
    const shown = first.length > 0 ? first : [...sliders.keys()];
    const rest = [...sliders].filter(([name]) => !shown.includes(name));
    this.list.replaceChildren(...shown.map((name) => sliders.get(name)!));
    if (rest.length === 0) return;
    const summary = create("summary", {}, "More");
    const more = create("details", { class: "more" }, summary, ...rest.map(([, node]) => node));
    more.open = this.moreOpen;
    more.addEventListener("toggle", () => {
      this.moreOpen = more.open;
    });
    this.list.append(more);
  }

  private slider(name: string, control: Control, start: number, own: number): HTMLElement {
    const id = `control-${name}`;
    const input = create("input", {
      id,
      type: "range",
      min: String(control.min),
      max: String(control.max),
      step: String(stepFor(control)),
    });
    input.value = String(start);
    const value = create("output", { for: id });
    const unit = control.unit.replace(/_/g, " ");
    const show = () => {
      const now = Number(input.value);
      value.textContent = display(now, control);
      value.append(create("small", {}, ` ${unit}`));
      input.setAttribute("aria-valuetext", `${display(now, control)} ${unit}`);
      const share = (now - control.min) / (control.max - control.min);
      input.style.setProperty("--share", String(share));
    };
    const mark = (own - control.min) / (control.max - control.min);
    input.style.setProperty("--default", String(Math.min(Math.max(mark, 0), 1)));
    input.addEventListener("input", () => {
      show();
      if (this.voice !== null) this.onChange(this.voice, { [name]: Number(input.value) });
    });
    show();
    const label = create("label", { for: id }, NAMES[name] ?? name);
    return create("div", { class: "slider" }, label, value, input);
  }

  private reset(): void {
    if (this.voice === null) return;
    const params = Object.fromEntries(
      Object.entries(this.voice.controls).map(([name, control]) => [
        name,
        ownValue(this.voice!, name, control),
      ]),
    );
    this.onChange(this.voice, params);
    this.show(this.voice);
  }
}
