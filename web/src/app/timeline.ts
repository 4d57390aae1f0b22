// The last seconds of both waveforms, by block index: the same index is the same instant. Pure.
import type { Block } from "../sdk/index.ts";

export class Timeline {
  private readonly low: Float32Array;
  private readonly high: Float32Array;
  private readonly indices: Float64Array;
  newest = -1;

  constructor(private readonly size: number) {
    this.low = new Float32Array(size);
    this.high = new Float32Array(size);
    this.indices = new Float64Array(size).fill(-1);
  }

  push(blocks: readonly Block[]): void {
    for (const { index, low, high } of blocks) {
      const at = index % this.size;
      this.low[at] = low;
      this.high[at] = high;
      this.indices[at] = index;
      this.newest = Math.max(this.newest, index);
    }
  }

  /** The largest magnitude in blocks from..to, or null where there is no audio. */
  peak(from: number, to: number): number | null {
    let peak: number | null = null;
    for (let index = Math.max(0, from); index < to; index++) {
      const at = index % this.size;
      if (this.indices[at] !== index) continue;
      peak = Math.max(peak ?? 0, this.high[at]!, -this.low[at]!);
    }
    return peak;
  }

  clear(): void {
    this.indices.fill(-1);
    this.newest = -1;
  }
}
