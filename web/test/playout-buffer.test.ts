import { describe, expect, it } from "vitest";
import { PlayoutBuffer } from "../src/sdk/audio/playout-buffer.ts";

const RATE = 24_000;
const BLOCK = 128;
const OPTIONS = { sampleRate: RATE, marginMs: 8, maxMarginMs: 150 };

/** A voice-like tone: 140 Hz with harmonics, slowly swelling. */
function voice(k: number): number {
  const t = k / RATE;
  let x = 0;
  for (let h = 1; h <= 5; h++) x += Math.sin(2 * Math.PI * 140 * h * t) / h;
  return 0.25 * x * (0.7 + 0.3 * Math.sin(2 * Math.PI * 1.5 * t));
}

interface Run {
  readonly heard: Float32Array;
  readonly buffer: PlayoutBuffer;
  readonly delaysMs: number[];
}

/** Plays chunks of `chunkMs`; chunk k arrives at (k + 1) * chunkMs + delayMs(k), never overtaking. */
function play(seconds: number, chunkMs: number, delayMs: (k: number) => number): Run {
  const buffer = new PlayoutBuffer(OPTIONS);
  const chunk = (RATE * chunkMs) / 1000;
  const heard = new Float32Array(Math.floor((seconds * RATE) / BLOCK) * BLOCK);
  const delaysMs: number[] = [];
  let next = 0;
  let arrival = chunkMs + delayMs(0);
  for (let at = 0; at < heard.length; at += BLOCK) {
    while (arrival * RATE <= at * 1000) {
      const pcm = Int16Array.from({ length: chunk }, (_, i) => voice(next * chunk + i) * 32768);
      buffer.push(pcm, next * chunk);
      next += 1;
      arrival = Math.max(arrival, (next + 1) * chunkMs + delayMs(next));
    }
    buffer.pull(heard.subarray(at, at + BLOCK), at);
    const { mouthToEarMs } = buffer.stats();
    if (mouthToEarMs !== null) delaysMs.push(mouthToEarMs);
  }
  return { heard, buffer, delaysMs };
}

function largestStep(x: Float32Array): number {
  let step = 0;
  for (let i = 1; i < x.length; i++) step = Math.max(step, Math.abs(x[i]! - x[i - 1]!));
  return step;
}

/** The largest step within the voice itself: anything well above it is a click. */
const NATURAL_STEP = largestStep(Float32Array.from({ length: RATE }, (_, k) => voice(k)));

describe("PlayoutBuffer", () => {
  it("plays an even line without an underrun, close behind it", () => {
    const { buffer, delaysMs } = play(10, 20, () => 5);
    expect(buffer.stats().underruns).toBe(0);
    // 20 ms of chunk, 5 ms of line, the margin, and the sawtooth of 20 ms chunks in 5 ms blocks.
    expect(delaysMs.at(-1)).toBeLessThan(45);
  });

  it("knows the exact delay from capture to playing", () => {
    const { heard, delaysMs } = play(3, 10, () => 5);
    const delay = Math.round((delaysMs.at(-1)! * RATE) / 1000);
    const at = heard.length - BLOCK;
    for (let i = 0; i < BLOCK; i++) expect(heard[at + i]).toBeCloseTo(voice(at + i - delay), 3);
  });

  it("drains back after a late start", () => {
    const { buffer, delaysMs } = play(20, 20, (k) => (k < 5 ? 150 - k * 30 : 0));
    expect(delaysMs.at(-1)).toBeLessThan(50);
    const { splicedMs, skippedMs } = buffer.stats();
    expect(splicedMs + skippedMs).toBeGreaterThan(30);
  });

  it("drains back after one bad moment, leaving nothing out but what repeats itself", () => {
    const { buffer, delaysMs } = play(25, 20, (k) => (k === 400 ? 120 : 0));
    expect(Math.max(...delaysMs.slice(1500))).toBeGreaterThan(120);
    expect(delaysMs.at(-1)).toBeLessThan(65);
    expect(buffer.stats()).toMatchObject({ underruns: 1, skippedMs: 0 });
  });

  it("drains without clicks", () => {
    const { heard, buffer } = play(25, 20, (k) => (k === 400 ? 120 : 0));
    expect(buffer.stats().splicedMs).toBeGreaterThan(50);
    expect(largestStep(heard)).toBeLessThan(NATURAL_STEP * 1.6);
  });

  it("grows the margin on underruns, and settles without more of them", () => {
    const jitter = (k: number) => (k % 50 === 49 ? 60 : 0);
    const early = play(10, 20, jitter).buffer.stats();
    expect(early.underruns).toBeGreaterThan(0);
    const late = play(40, 20, jitter).buffer.stats();
    expect(late.underruns - early.underruns).toBeLessThan(6);
  });

  it("underruns without clicks", () => {
    const { heard, buffer } = play(8, 20, (k) => (k % 60 === 59 ? 120 : 0));
    expect(buffer.stats().underruns).toBeGreaterThan(0);
    expect(largestStep(heard)).toBeLessThan(NATURAL_STEP * 1.6);
  });

  it("jumps back to the present after a long stall", () => {
    const { buffer, delaysMs } = play(12, 20, (k) => (k === 200 ? 2000 : 0));
    expect(delaysMs.at(-1)).toBeLessThan(120);
    expect(buffer.stats().skippedMs).toBeGreaterThan(1500);
  });

  it("takes the zeros that stand for a wait without playing them late", () => {
    const buffer = new PlayoutBuffer(OPTIONS);
    for (let k = 0; k < 40; k++) buffer.push(new Int16Array(4800), k * 4800);
    const out = new Float32Array(BLOCK);
    buffer.pull(out, 40 * 4800);
    expect(buffer.stats().depthMs).toBeLessThan(100);
  });

  it("counts no underrun while nothing is due", () => {
    const buffer = new PlayoutBuffer(OPTIONS);
    const out = new Float32Array(BLOCK);
    for (let k = 0; k < 20; k++) buffer.push(new Int16Array(240).fill(1000), k * 240);
    buffer.expect(false);
    for (let k = 0; k < 100; k++) buffer.pull(out, k * BLOCK);
    expect(buffer.stats()).toMatchObject({ underruns: 0, depthMs: 0 });
  });
});
