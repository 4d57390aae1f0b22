// Microphone to worker: frames the input and hands it over; all logic is in audio/framer.ts.
import { Framer } from "../audio/framer.ts";
import { toInt16 } from "../protocol.ts";
import type { CapturedFrame, CaptureOptions } from "./messages.ts";

class CaptureProcessor extends AudioWorkletProcessor {
  private out: MessagePort | null = null;
  private readonly framer: Framer;

  constructor(options: { processorOptions: CaptureOptions }) {
    super();
    this.framer = new Framer(options.processorOptions.frameSamples, ({ position, samples }) => {
      const pcm = toInt16(samples) as Int16Array<ArrayBuffer>;
      this.out?.postMessage({ position, pcm } satisfies CapturedFrame, [pcm.buffer]);
    });
    this.port.onmessage = (event: MessageEvent<MessagePort>) => {
      this.out = event.data;
    };
  }

  process(inputs: Float32Array[][], outputs: Float32Array[][]): boolean {
    const blockSamples = outputs[0]![0]!.length;
    this.framer.push(inputs[0]?.[0] ?? null, blockSamples, currentFrame);
    return true;
  }
}

registerProcessor("understudy-capture", CaptureProcessor);
