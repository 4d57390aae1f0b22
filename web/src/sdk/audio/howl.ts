// Detects howling: loudspeaker feedback is one steady, loud tone, which speech never is for long.
import { fft } from "./fft.ts";

const SIZE = 1024;
const LOOK_EVERY_MS = 50;
/** This many looks in a row: half a second. */
const LOOKS = 10;
const LOUD_RMS = 0.05;
/** The share of the power that one tone must hold. */
const TONE_SHARE = 0.8;

export class HowlDetector {
  private readonly recent = new Float64Array(SIZE);
  private readonly window: Float64Array;
  private until: number;
  private bin = 0;
  private looks = 0;

  constructor(private readonly sampleRate: number) {
    this.until = SIZE;
    this.window = Float64Array.from(
      { length: SIZE },
      (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE),
    );
  }

  /** True at the moment when a howl is certain. */
  push(pcm: Int16Array): boolean {
    this.recent.copyWithin(0, pcm.length);
    for (let i = 0; i < pcm.length; i++) {
      const at = SIZE - pcm.length + i;
      if (at >= 0) this.recent[at] = pcm[i]! / 32768;
    }
    this.until -= pcm.length;
    if (this.until > 0) return false;
    this.until = (this.sampleRate * LOOK_EVERY_MS) / 1000;
    const bin = this.tone();
    const same = bin !== null && Math.abs(bin - this.bin) <= 1;
    this.looks = bin === null ? 0 : same ? this.looks + 1 : 1;
    if (bin !== null) this.bin = bin;
    if (this.looks < LOOKS) return false;
    this.looks = 0;
    return true;
  }

  /** The bin of the one loud tone, or null. */
  private tone(): number | null {
    let power = 0;
    for (const x of this.recent) power += x * x;
    if (Math.sqrt(power / SIZE) < LOUD_RMS) return null;
    const re = this.recent.map((x, i) => x * this.window[i]!);
    const im = new Float64Array(SIZE);
    fft(re, im);
    let total = 0;
    let peak = 0;
    const spectrum = new Float64Array(SIZE / 2);
    for (let k = 2; k < SIZE / 2; k++) {
      spectrum[k] = re[k]! * re[k]! + im[k]! * im[k]!;
      total += spectrum[k]!;
      if (spectrum[k]! > spectrum[peak]!) peak = k;
    }
    let near = 0;
    for (let k = Math.max(0, peak - 2); k <= Math.min(SIZE / 2 - 1, peak + 2); k++) {
      near += spectrum[k]!;
    }
    return near > TONE_SHARE * total ? peak : null;
  }
}
