// Sums audio up in blocks of 10 ms: what meters and waveforms are drawn from.

export interface Block {
  /** Index on the context's clock: block k covers samples k * blockSamples onwards. */
  readonly index: number;
  readonly low: number;
  readonly high: number;
  readonly rms: number;
}

export const BLOCKS_PER_S = 100;

export class Envelope {
  private readonly blockSamples: number;
  private index = -1;
  private low = 0;
  private high = 0;
  private power = 0;
  private count = 0;
  private done: Block[] = [];

  constructor(sampleRate: number) {
    this.blockSamples = sampleRate / BLOCKS_PER_S;
  }

  push(pcm: Int16Array, position: number): void {
    for (let i = 0; i < pcm.length; i++) {
      const index = Math.floor((position + i) / this.blockSamples);
      if (index !== this.index) this.close(index);
      const x = pcm[i]! / 32768;
      if (x < this.low) this.low = x;
      if (x > this.high) this.high = x;
      this.power += x * x;
      this.count += 1;
    }
  }

  private close(next: number): void {
    if (this.count > 0) {
      const rms = Math.sqrt(this.power / this.count);
      this.done.push({ index: this.index, low: this.low, high: this.high, rms });
    }
    this.index = next;
    this.low = 0;
    this.high = 0;
    this.power = 0;
    this.count = 0;
  }

  /** The blocks finished since the last call. */
  take(): Block[] {
    const done = this.done;
    this.done = [];
    return done;
  }
}
