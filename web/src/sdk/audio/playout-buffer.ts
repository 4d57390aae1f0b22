// The playout (jitter) buffer: takes audio as it arrives, gives it at an even pace.
//
// It holds as little as the line allows. What it watches is the slack: the least audio left right
// before a refill, over the last seconds. An underrun raises the margin that slack must keep; slack
// beyond the margin is drained by leaving out whole pitch periods (or silence), crossfaded, so that
// one bad moment does not leave the sound late for the rest of the session.
import { findSplice } from "./splice.ts";

export interface PlayoutOptions {
  readonly sampleRate: number;
  /** The slack to keep when the line is good. */
  readonly marginMs: number;
  /** How far underruns may raise it. */
  readonly maxMarginMs: number;
}

export interface PlayoutStats {
  /** From capture of a sample to its playing, on the context's clock; null before any was played. */
  readonly mouthToEarMs: number | null;
  readonly depthMs: number;
  readonly slackMs: number;
  readonly marginMs: number;
  readonly underruns: number;
  /** Left out to catch up: in splices that cannot be heard, and in jumps. */
  readonly splicedMs: number;
  readonly skippedMs: number;
}

const CAPACITY_S = 6;
const GROW_MS = 10;
/** Nothing is known of the line at the start: begin with this much more, and drain it. */
const START_MS = 20;
const SHRINK_MS_PER_S = 0.5;
const SLACK_WINDOW_S = 4;
const WINDOW_PARTS = 8;
/** The first seconds are unlike the rest: threads start, and the server catches up in a burst. */
const SETTLING_S = 4;
const SETTLING_PARTS = 2;
const SETTLING_JUMP_MS = 60;
const HYSTERESIS_MS = 4;
/** More than this beyond the margin is a burst after a stall: jump, do not splice. */
const JUMP_MS = 250;
const FADE_MS = 3;
const MIN_SIMILARITY = 0.75;
/** Each try without a good join lowers the bar, so that noise drains too. */
const PATIENCE = 0.005;
/** Down to a pitch of 67 Hz. */
const LONGEST_SPLICE_MS = 15;
const OVERLAP_MS = 5;

export class PlayoutBuffer {
  private readonly ring: Float32Array;
  private readonly mask: number;
  private readonly rate: number;
  private written = 0;
  private read = 0;
  /** Ring position minus context clock at capture; changes only where input was dropped. */
  private offsets: { at: number; offset: number }[] = [];
  private playing = false;
  private expecting = false;
  private chunk = 0;
  private played = 0;
  private marginMs: number;
  private last = 0;
  private fade = 1;
  private bar = MIN_SIMILARITY;
  private sinceSplice = 0;
  private untilPart = 0;
  /** Least depth in each part of the slack window, newest last. */
  private parts: number[] = [];
  private least = Number.POSITIVE_INFINITY;
  private underruns = 0;
  private spliced = 0;
  private skipped = 0;
  private readonly scratch: Float32Array;

  constructor(private readonly options: PlayoutOptions) {
    this.rate = options.sampleRate;
    const size = 2 ** Math.ceil(Math.log2(this.rate * CAPACITY_S));
    this.ring = new Float32Array(size);
    this.mask = size - 1;
    this.marginMs = options.marginMs;
    this.scratch = new Float32Array(this.samples(20));
  }

  private samples(ms: number): number {
    return Math.round((ms * this.rate) / 1000);
  }

  private get depth(): number {
    return this.written - this.read;
  }

  private get settling(): boolean {
    return this.played < SETTLING_S * this.rate;
  }

  /** Whether more audio is due: running dry while none is due is no underrun. */
  expect(due: boolean): void {
    this.expecting = due;
    if (!due) this.chunk = 0;
  }

  /** `captured`: when the input sample that chunk[0] answers was captured, on the context's clock. */
  push(chunk: Int16Array, captured: number): void {
    if (this.depth + chunk.length > this.ring.length) this.jump(chunk.length);
    const offset = this.written - captured;
    if (this.offsets.at(-1)?.offset !== offset) this.offsets.push({ at: this.written, offset });
    for (let i = 0; i < chunk.length; i++) {
      this.ring[(this.written + i) & this.mask] = chunk[i]! / 32768;
    }
    this.written += chunk.length;
    this.expecting = true;
    // Audio may come in bursts of an engine's frame: start only with one more than that in hand.
    this.chunk = Math.max(Math.min(chunk.length, this.samples(60)), Math.floor(this.chunk * 0.98));
  }

  /** Fills `out`; `clock` is where out[0] stands on the context's clock. */
  pull(out: Float32Array, clock: number): void {
    if (!this.playing) {
      const enough = this.chunk + this.samples(this.marginMs + START_MS);
      if (this.depth === 0 || (this.expecting && this.depth < enough)) {
        this.decay(out, 0);
        return;
      }
      this.playing = true;
      this.fade = 0;
      this.restartWindow();
    }
    this.drain();
    const n = Math.min(this.depth, out.length);
    const step = 1 / this.samples(FADE_MS);
    for (let i = 0; i < n; i++) {
      let x = this.ring[(this.read + i) & this.mask]!;
      if (this.fade < 1) {
        x *= this.fade;
        this.fade += step;
      }
      out[i] = x;
    }
    this.read += n;
    this.played += n;
    if (n > 0) this.last = out[n - 1]!;
    this.clock = clock + n;
    if (n < out.length) {
      this.decay(out, n);
      this.playing = false;
      if (this.expecting) {
        this.underruns += 1;
        this.marginMs = Math.min(this.marginMs + GROW_MS, this.options.maxMarginMs);
      }
      return;
    }
    this.watch(out.length);
  }

  private clock: number | null = null;

  /** After the last sample the sound falls to zero within a few ms: no step, so no click. */
  private decay(out: Float32Array, from: number): void {
    const factor = Math.exp(-1 / this.samples(FADE_MS / 2));
    for (let i = from; i < out.length; i++) {
      this.last *= factor;
      out[i] = this.last;
    }
    if (Math.abs(this.last) < 1e-6) this.last = 0;
  }

  private restartWindow(): void {
    this.parts = [];
    this.least = Number.POSITIVE_INFINITY;
    this.untilPart = this.samples((SLACK_WINDOW_S * 1000) / WINDOW_PARTS);
  }

  private watch(played: number): void {
    this.least = Math.min(this.least, this.depth);
    this.untilPart -= played;
    if (this.untilPart > 0) return;
    this.parts.push(this.least);
    const kept = this.settling ? SETTLING_PARTS : WINDOW_PARTS;
    if (this.parts.length > kept) this.parts.shift();
    this.least = this.depth;
    const partS = SLACK_WINDOW_S / WINDOW_PARTS;
    this.untilPart = this.samples(partS * 1000);
    this.marginMs = Math.max(this.options.marginMs, this.marginMs - SHRINK_MS_PER_S * partS);
  }

  /** The least depth over the window, in samples; what is there now until a first part is known. */
  private get slack(): number {
    return Math.min(this.least, this.depth, ...this.parts);
  }

  private drain(): void {
    const margin = this.samples(this.marginMs);
    const limit = this.samples(this.settling ? SETTLING_JUMP_MS : JUMP_MS);
    if (this.depth > margin + this.chunk + limit) {
      this.jump(0);
      return;
    }
    this.sinceSplice += 128;
    if (this.parts.length === 0 || this.sinceSplice < this.samples(30)) return;
    const excess = this.slack - margin;
    if (excess < this.samples(HYSTERESIS_MS)) return;
    const overlap = this.samples(OVERLAP_MS);
    const maxLag = Math.min(excess, this.samples(LONGEST_SPLICE_MS));
    if (this.depth < maxLag + overlap + 128) return;
    const view = this.scratch.subarray(0, maxLag + overlap);
    for (let i = 0; i < view.length; i++) view[i] = this.ring[(this.read + i) & this.mask]!;
    const splice = findSplice(view, overlap, Math.min(this.samples(2.5), maxLag), maxLag);
    this.sinceSplice = 0;
    if (splice === null) return;
    if (splice.similarity < this.bar) {
      this.bar -= PATIENCE;
      return;
    }
    this.bar = MIN_SIMILARITY;
    this.leaveOut(splice.lag, overlap);
    this.spliced += splice.lag;
  }

  private jump(incoming: number): void {
    const keep = this.samples(this.marginMs) + this.chunk;
    const lag = Math.max(0, this.depth + incoming - keep);
    const overlap = Math.min(this.samples(OVERLAP_MS), Math.max(0, this.depth - lag));
    this.leaveOut(Math.min(lag, this.depth - overlap), overlap);
    this.skipped += lag;
    this.restartWindow();
  }

  /** Crossfades x[read..] into x[read+lag..] in place, then goes on from there. */
  private leaveOut(lag: number, overlap: number): void {
    // A copy, for the two stretches overlap where the lag is short.
    const old = this.scratch.subarray(0, overlap);
    for (let i = 0; i < overlap; i++) old[i] = this.ring[(this.read + i) & this.mask]!;
    for (let i = 0; i < overlap; i++) {
      const w = (i + 1) / (overlap + 1);
      const to = (this.read + lag + i) & this.mask;
      this.ring[to] = old[i]! * (1 - w) + this.ring[to]! * w;
    }
    this.read += lag;
    this.least = Math.max(0, this.least - lag);
    for (let i = 0; i < this.parts.length; i++) {
      this.parts[i] = Math.max(0, this.parts[i]! - lag);
    }
  }

  stats(): PlayoutStats {
    while (this.offsets.length > 1 && this.offsets[1]!.at <= this.read) this.offsets.shift();
    const offset = this.offsets[0]?.offset;
    const toMs = (samples: number) => (samples * 1000) / this.rate;
    return {
      mouthToEarMs:
        this.clock === null || offset === undefined || !this.playing
          ? null
          : toMs(this.clock - (this.read - offset)),
      depthMs: toMs(this.depth),
      slackMs: toMs(this.playing ? this.slack : 0),
      marginMs: this.marginMs,
      underruns: this.underruns,
      splicedMs: toMs(this.spliced),
      skippedMs: toMs(this.skipped),
    };
  }
}
