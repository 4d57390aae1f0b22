// Keeps what was said and what came back, sample for sample at the same position.

export interface Recording {
  readonly sampleRate: number;
  readonly input: Int16Array;
  readonly output: Int16Array;
}

class Track {
  private chunks: { at: number; pcm: Int16Array }[] = [];
  private end = 0;

  /** `at`: samples since the recording began; what no chunk covers is silence. */
  put(at: number, pcm: Int16Array): void {
    if (at + pcm.length <= 0) return;
    // A copy: the buffer itself is handed on to the playout worklet.
    this.chunks.push({ at, pcm: pcm.slice() });
    this.end = Math.max(this.end, at + pcm.length);
  }

  get length(): number {
    return this.end;
  }

  flatten(length: number): Int16Array {
    const flat = new Int16Array(length);
    for (const { at, pcm } of this.chunks) {
      const from = Math.max(0, -at);
      const to = Math.min(pcm.length, length - at);
      if (to > from) flat.set(pcm.subarray(from, to), at + from);
    }
    return flat;
  }
}

export class Recorder {
  private readonly input = new Track();
  private readonly output = new Track();
  private start: number | null = null;

  constructor(private readonly sampleRate: number) {}

  /** Positions are on the context's clock, so that both tracks share one time line. */
  putInput(position: number, pcm: Int16Array): void {
    this.start ??= position;
    this.input.put(position - this.start, pcm);
  }

  putOutput(position: number, pcm: Int16Array): void {
    if (this.start !== null) this.output.put(position - this.start, pcm);
  }

  get durationS(): number {
    return this.input.length / this.sampleRate;
  }

  finish(): Recording {
    const length = Math.max(this.input.length, this.output.length);
    return {
      sampleRate: this.sampleRate,
      input: this.input.flatten(length),
      output: this.output.flatten(length),
    };
  }
}
