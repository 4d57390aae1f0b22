// The sliders of a voice, such as pitch and formant: live while talking.
import type { Control, Params, Voice } from "../sdk/index.ts";
import { paramsOf } from "./call.ts";
import { byId, create } from "./dom.ts";
import { display, stepFor } from "./format.ts";

/** A word for what a slider does, where the server's name for it is one we know. */
const NAMES: Readonly<Record<string, string>> = { pitch: "Pitch", formant: "Formant" };

export class ControlsPanel {
  private readonly card = byId("controls-card");
  private readonly list = byId("controls");
  private voice: Voice | null = null;
  private inputs = new Map<string, HTMLInputElement>();

  constructor(private readonly onChange: (voice: Voice, params: Params) => void) {
    byId("reset").addEventListener("click", () => this.reset());
  }

  show(voice: Voice): void {
    this.voice = voice;
    const controls = Object.entries(voice.controls);
    this.card.hidden = controls.length === 0;
    this.inputs = new Map();
    const params = paramsOf(voice);
    this.list.replaceChildren(
      ...controls.map(([name, control]) => this.slider(name, control, params[name])),
    );
  }

  private slider(name: string, control: Control, stored: number | undefined): HTMLElement {
    const id = `control-${name}`;
    const input = create("input", {
      id,
      type: "range",
      min: String(control.min),
      max: String(control.max),
      step: String(stepFor(control)),
    });
    input.value = String(stored ?? control.default);
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
    const zero = Math.min(
      Math.max((control.default - control.min) / (control.max - control.min), 0),
      1,
    );
    input.style.setProperty("--default", String(zero));
    input.addEventListener("input", () => {
      show();
      if (this.voice !== null) this.onChange(this.voice, { [name]: Number(input.value) });
    });
    show();
    this.inputs.set(name, input);
    const label = create("label", { for: id }, NAMES[name] ?? name);
    return create("div", { class: "slider" }, label, value, input);
  }

  private reset(): void {
    if (this.voice === null) return;
    const params = Object.fromEntries(
      Object.entries(this.voice.controls).map(([name, control]) => [name, control.default]),
    );
    this.onChange(this.voice, params);
    this.show(this.voice);
  }
}
