// A sliding window of figures and its quantiles.
import type { Quantiles } from "../protocol.ts";

export class SlidingWindow {
  private readonly values: number[] = [];

  constructor(private readonly size: number) {}

  push(value: number): void {
    this.values.push(value);
    if (this.values.length > this.size) this.values.shift();
  }

  get last(): number | null {
    return this.values.at(-1) ?? null;
  }

  quantiles(): Quantiles | null {
    if (this.values.length === 0) return null;
    const sorted = [...this.values].sort((a, b) => a - b);
    const at = (q: number) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))]!;
    return { p50: at(0.5), p95: at(0.95) };
  }
}
