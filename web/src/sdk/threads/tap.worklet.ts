// Records the microphone's side and the loudspeaker's side on one clock, for measurements.

const CHUNK = 4096;

class TapProcessor extends AudioWorkletProcessor {
  private chunk = [new Float32Array(CHUNK), new Float32Array(CHUNK)] as const;
  private filled = 0;

  process(inputs: Float32Array[][], outputs: Float32Array[][]): boolean {
    const n = outputs[0]![0]!.length;
    for (const side of [0, 1] as const) {
      const block = inputs[side]?.[0];
      if (block !== undefined) this.chunk[side].set(block, this.filled);
    }
    this.filled += n;
    if (this.filled + n > CHUNK) {
      this.port.postMessage(this.chunk.map((side) => side.slice(0, this.filled)));
      this.chunk = [new Float32Array(CHUNK), new Float32Array(CHUNK)];
      this.filled = 0;
    }
    return true;
  }
}

registerProcessor("understudy-tap", TapProcessor);
