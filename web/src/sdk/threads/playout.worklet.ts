// Worker to loudspeaker: all logic is in audio/playout-buffer.ts.
import { PlayoutBuffer } from "../audio/playout-buffer.ts";
import type { PlayoutNodeOptions, PlayoutReport, ToPlayout } from "./messages.ts";

const REPORT_EVERY_S = 0.1;

class PlayoutProcessor extends AudioWorkletProcessor {
  private readonly buffer: PlayoutBuffer;
  private nextReport = 0;

  constructor(options: { processorOptions: PlayoutNodeOptions }) {
    super();
    this.buffer = new PlayoutBuffer(options.processorOptions);
    this.port.onmessage = ({ data: port }: MessageEvent<MessagePort>) => {
      port.onmessage = ({ data }: MessageEvent<ToPlayout>) => {
        if (data.type === "audio") this.buffer.push(data.pcm, data.captured);
        else this.buffer.expect(data.due);
      };
    };
  }

  process(_inputs: Float32Array[][], outputs: Float32Array[][]): boolean {
    this.buffer.pull(outputs[0]![0]!, currentFrame);
    if (currentFrame >= this.nextReport) {
      this.nextReport = currentFrame + REPORT_EVERY_S * sampleRate;
      this.port.postMessage(this.buffer.stats() satisfies PlayoutReport);
    }
    return true;
  }
}

registerProcessor("understudy-playout", PlayoutProcessor);
