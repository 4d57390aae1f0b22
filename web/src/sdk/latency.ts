// Splits the delay from mouth to ear into its parts, over the last half minute.

import type { PlayoutStats } from "./audio/playout-buffer.ts";
import { SlidingWindow } from "./audio/window.ts";
import type { Quantiles } from "./protocol.ts";

export const LATENCY_PARTS = [
  "capture",
  "uplink",
  "queue",
  "engine",
  "downlink",
  "playout",
] as const;
export type LatencyPart = (typeof LATENCY_PARTS)[number];

export interface Latency {
  /** Null: not measured yet. */
  readonly parts: Readonly<Record<LatencyPart, Quantiles | null>>;
  /** Mouth to ear as measured by the sample lock, plus what the devices say of themselves. */
  readonly total: Quantiles | null;
  /** The total without the voice's own announced latency: what the line costs. */
  readonly line: Quantiles | null;
}

const REPORTS = 300;
const PINGS = 30;

export class LatencyMeter {
  private readonly roundTrip = new SlidingWindow(PINGS);
  private readonly depth = new SlidingWindow(REPORTS);
  private readonly inPage = new SlidingWindow(REPORTS);
  private queue: Quantiles | null = null;
  private step: Quantiles | null = null;
  private engineMs: number | null = null;
  private inputMs = 0;
  private outputMs = 0;

  constructor(private readonly frameMs: number) {}

  putRoundTrip(ms: number): void {
    this.roundTrip.push(ms);
  }

  putPlayout({ mouthToEarMs, depthMs }: PlayoutStats): void {
    if (mouthToEarMs === null) return;
    this.depth.push(depthMs);
    this.inPage.push(mouthToEarMs);
  }

  putServer(queue: Quantiles | null, step: Quantiles | null): void {
    this.queue = queue ?? this.queue;
    this.step = step ?? this.step;
  }

  putEngine(latencyMs: number): void {
    this.engineMs = latencyMs;
  }

  /** What the browser says of its devices: from the air to the context, and back. */
  putDevices(inputMs: number, outputMs: number): void {
    this.inputMs = inputMs;
    this.outputMs = outputMs;
  }

  snapshot(): Latency {
    const oneWay = scale(this.roundTrip.quantiles(), 0.5);
    const devices = this.inputMs + this.outputMs;
    const total = shift(this.inPage.quantiles(), devices);
    const { engineMs } = this;
    return {
      parts: {
        // The first sample of a frame waits for the last one.
        capture: { p50: this.inputMs + this.frameMs, p95: this.inputMs + this.frameMs },
        uplink: oneWay,
        queue: this.queue,
        engine: engineMs === null ? null : shift(this.step ?? { p50: 0, p95: 0 }, engineMs),
        downlink: oneWay,
        playout: shift(this.depth.quantiles(), this.outputMs),
      },
      total,
      line: engineMs === null ? total : shift(total, -engineMs),
    };
  }
}

function shift(q: Quantiles | null, by: number): Quantiles | null {
  return q === null ? null : { p50: q.p50 + by, p95: q.p95 + by };
}

function scale(q: Quantiles | null, by: number): Quantiles | null {
  return q === null ? null : { p50: q.p50 * by, p95: q.p95 * by };
}
