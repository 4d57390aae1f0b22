// Level meters: RMS as a bar, peak as a mark that falls slowly, and a warning when it clips.
import type { Block } from "../sdk/index.ts";
import { byId, setText } from "./dom.ts";

const FLOOR_DB = -60;
const FALL_DB_PER_BLOCK = 0.2;
const CLIP = 0.985;
const CLIP_SHOWN_MS = 3000;
const READ_OUT_MS = 500;

export function decibels(level: number): number {
  return Math.max(FLOOR_DB, 20 * Math.log10(level + 1e-9));
}

class Meter {
  private readonly rmsBar: HTMLElement;
  private readonly peakMark: HTMLElement;
  private readonly value: HTMLElement;
  private peakDb = FLOOR_DB;
  private readAt = 0;

  constructor(private readonly root: HTMLElement) {
    this.rmsBar = root.querySelector(".rms") as HTMLElement;
    this.peakMark = root.querySelector(".peak") as HTMLElement;
    this.value = root.querySelector(".meter-value") as HTMLElement;
  }

  push(blocks: readonly Block[]): void {
    if (blocks.length === 0) return;
    let power = 0;
    let peak = 0;
    for (const { rms, low, high } of blocks) {
      power += rms * rms;
      peak = Math.max(peak, high, -low);
    }
    this.peakDb = Math.max(decibels(peak), this.peakDb - FALL_DB_PER_BLOCK * blocks.length);
    this.show(decibels(Math.sqrt(power / blocks.length)), this.peakDb);
  }

  reset(): void {
    this.peakDb = FLOOR_DB;
    this.readAt = 0;
    this.show(FLOOR_DB, FLOOR_DB);
  }

  private show(rmsDb: number, peakDb: number): void {
    const share = (db: number) => String(1 - db / FLOOR_DB);
    this.rmsBar.style.setProperty("--level", share(rmsDb));
    this.peakMark.style.setProperty("--level", share(peakDb));
    const now = performance.now();
    if (now - this.readAt < READ_OUT_MS) return;
    this.readAt = now;
    const silent = peakDb <= FLOOR_DB;
    const text = silent ? "–" : `${Math.round(peakDb)} dB`;
    setText(this.value, text.replace("-", "−"));
    this.root.setAttribute("aria-valuenow", String(Math.round(rmsDb)));
    this.root.setAttribute("aria-valuetext", silent ? "silent" : `${Math.round(rmsDb)} decibels`);
  }
}

export class Meters {
  private readonly input = new Meter(byId("meter-in"));
  private readonly output = new Meter(byId("meter-out"));
  private readonly clip = byId("clip");
  private clipped: ReturnType<typeof setTimeout> | undefined;

  push(input: readonly Block[], output: readonly Block[]): void {
    this.input.push(input);
    this.output.push(output);
    if (!input.some(({ low, high }) => high >= CLIP || low <= -CLIP)) return;
    this.clip.hidden = false;
    clearTimeout(this.clipped);
    this.clipped = setTimeout(() => {
      this.clip.hidden = true;
    }, CLIP_SHOWN_MS);
  }

  reset(): void {
    this.input.reset();
    this.output.reset();
    this.clip.hidden = true;
  }
}
