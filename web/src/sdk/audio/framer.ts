// Cuts the 128-sample blocks of an AudioWorklet into frames of a set length.

export interface Frame {
  /** Where the first sample stands on the context's clock, in samples. */
  readonly position: number;
  readonly samples: Float32Array;
}

export class Framer {
  private frame: Float32Array;
  private filled = 0;

  constructor(
    private readonly frameSamples: number,
    private readonly emit: (frame: Frame) => void,
  ) {
    this.frame = new Float32Array(frameSamples);
  }

  /** `block` null: the input has nothing to give (muted, unplugged), which is silence. */
  push(block: Float32Array | null, blockSamples: number, clock: number): void {
    let done = 0;
    while (done < blockSamples) {
      const n = Math.min(blockSamples - done, this.frameSamples - this.filled);
      if (block !== null) this.frame.set(block.subarray(done, done + n), this.filled);
      this.filled += n;
      done += n;
      if (this.filled === this.frameSamples) {
        this.emit({ position: clock + done - this.frameSamples, samples: this.frame });
        this.frame = new Float32Array(this.frameSamples);
        this.filled = 0;
      }
    }
  }
}
