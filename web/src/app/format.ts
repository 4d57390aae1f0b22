// How a slider steps, and how its number is written. Pure.
import type { Control } from "../sdk/protocol.ts";

const STEPS = 200;

/** A step that fits the range: 24 semitones move by 0.1, a ratio of 0.5 to 2 by 0.01. */
export function stepFor({ min, max }: Pick<Control, "min" | "max">): number {
  return 10 ** Math.round(Math.log10((max - min) / STEPS));
}

export function display(value: number, control: Control): string {
  const digits = Math.max(0, -Math.round(Math.log10(stepFor(control))));
  const sign = control.min < 0 && value > 0 ? "+" : "";
  return `${sign}${value.toFixed(digits)}`.replace("-", "−");
}
