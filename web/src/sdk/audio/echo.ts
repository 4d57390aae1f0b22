// Detects that the microphone hears the loudspeaker: what was played comes back in the input.
//
// Loudness alone cannot tell an echo from rhythmic speech, so the waveforms are compared: a
// cross-correlation whitened in frequency (GCC-PHAT) has one sharp peak where one signal is in the
// other, delayed, and none where two signals only move alike.
import { fft } from "./fft.ts";

const SIZE = 16_384;
const STEP = SIZE / 2;
const TARGET_RATE = 8000;
/** A peak this many times the correlation's own noise, at one lag, this many looks in a row. */
const SHARP = 12;
const LOOKS = 3;
const LAG_SPREAD = 40;
const SILENT_POWER = 1e-6;

export class EchoDetector {
  private readonly every: number;
  private readonly captured = new Float64Array(SIZE);
  private readonly played = new Float64Array(SIZE);
  private readonly queue: Int16Array[] = [];
  private queueAt = 0;
  private phase = 0;
  private sumIn = 0;
  private sumOut = 0;
  private until = SIZE;
  private lag = -1;
  private looks = 0;

  constructor(sampleRate: number) {
    this.every = Math.max(1, Math.round(sampleRate / TARGET_RATE));
  }

  /** Audio that is on its way to the loudspeaker. */
  play(pcm: Int16Array): void {
    this.queue.push(pcm);
  }

  /** Audio from the microphone, at whose pace the other side is taken to be played. */
  push(pcm: Int16Array): boolean {
    let heard = false;
    for (let i = 0; i < pcm.length; i++) {
      this.sumIn += pcm[i]!;
      this.sumOut += this.next();
      this.phase += 1;
      if (this.phase < this.every) continue;
      const scale = 1 / (32768 * this.every);
      this.keep(this.sumIn * scale, this.sumOut * scale);
      this.phase = 0;
      this.sumIn = 0;
      this.sumOut = 0;
      this.until -= 1;
      if (this.until === 0) {
        this.until = STEP;
        heard = this.look() || heard;
      }
    }
    return heard;
  }

  private at = 0;

  private keep(captured: number, played: number): void {
    this.captured[this.at] = captured;
    this.played[this.at] = played;
    this.at = (this.at + 1) % SIZE;
  }

  private next(): number {
    const head = this.queue[0];
    if (head === undefined) return 0;
    const sample = head[this.queueAt]!;
    this.queueAt += 1;
    if (this.queueAt >= head.length) {
      this.queue.shift();
      this.queueAt = 0;
    }
    return sample;
  }

  private look(): boolean {
    const found = this.sharpLag();
    const same = found !== null && Math.abs(found - this.lag) <= LAG_SPREAD;
    this.looks = found === null ? 0 : same ? this.looks + 1 : 1;
    if (found !== null) this.lag = found;
    return this.looks >= LOOKS;
  }

  /** The lag at which the input holds the output, or null. */
  private sharpLag(): number | null {
    const re = new Float64Array(SIZE);
    const im = new Float64Array(SIZE);
    let powerIn = 0;
    let powerOut = 0;
    for (let i = 0; i < SIZE; i++) {
      const from = (this.at + i) % SIZE;
      const window = 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE);
      re[i] = this.captured[from]! * window;
      im[i] = this.played[from]! * window;
      powerIn += re[i]! * re[i]!;
      powerOut += im[i]! * im[i]!;
    }
    if (Math.min(powerIn, powerOut) / SIZE < SILENT_POWER) return null;
    // Both real spectra from one transform of input + i * output.
    fft(re, im);
    const crossRe = new Float64Array(SIZE);
    const crossIm = new Float64Array(SIZE);
    for (let k = 0; k < SIZE; k++) {
      const j = (SIZE - k) % SIZE;
      const ar = (re[k]! + re[j]!) / 2;
      const ai = (im[k]! - im[j]!) / 2;
      const br = (im[k]! + im[j]!) / 2;
      const bi = (re[j]! - re[k]!) / 2;
      const cr = ar * br + ai * bi;
      const ci = ai * br - ar * bi;
      const size = Math.hypot(cr, ci) + 1e-12;
      // Conjugated, so that a forward transform serves as the inverse one.
      crossRe[k] = cr / size;
      crossIm[k] = -ci / size;
    }
    fft(crossRe, crossIm);
    let power = 0;
    let peak = 0;
    for (let k = 0; k < SIZE; k++) power += crossRe[k]! * crossRe[k]!;
    // Only input that follows output, by up to a second: the rest answers the input.
    for (let k = 1; k < TARGET_RATE; k++) if (crossRe[k]! > crossRe[peak]! || peak === 0) peak = k;
    return crossRe[peak]! > SHARP * Math.sqrt(power / SIZE) ? peak : null;
  }
}
