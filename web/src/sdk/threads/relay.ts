// The audio path of the worker: frames out, audio in, and what is derived from both on the way.
//
// The stream is sample-locked: output sample k answers input sample k. So the clock position at
// which sample k was captured is known for every output sample, and with it the true delay.
import { EchoDetector } from "../audio/echo.ts";
import { BLOCKS_PER_S, type Block, Envelope } from "../audio/envelope.ts";
import { HowlDetector } from "../audio/howl.ts";
import { Recorder, type Recording } from "../audio/recorder.ts";
import type { Label } from "../options.ts";
import { encodePcm, PcmDecoder, type ServerMessage } from "../protocol.ts";

/** Maps positions in the stream to the clock at capture; a new piece where frames were dropped. */
export class CaptureMap {
  private pieces: { stream: number; captured: number }[] = [];
  private sent = 0;

  /** Counts a frame as sent. */
  sentFrame(captured: number, samples: number): void {
    const last = this.pieces.at(-1);
    if (last === undefined || last.captured + (this.sent - last.stream) !== captured) {
      this.pieces.push({ stream: this.sent, captured });
    }
    this.sent += samples;
  }

  /** Where on the clock the sample at `stream` was captured. Nothing before `old` is asked again. */
  captured(stream: number, old: number): number {
    while (this.pieces.length > 1 && this.pieces[1]!.stream <= old) this.pieces.shift();
    const later = this.pieces.findIndex((piece) => piece.stream > stream);
    const piece = this.pieces.at(later < 0 ? -1 : Math.max(0, later - 1));
    return piece === undefined ? 0 : piece.captured + stream - piece.stream;
  }

  /** The runs of `samples` output samples from `stream` on that were captured in one piece. */
  runs(stream: number, samples: number): { from: number; to: number; captured: number }[] {
    while (this.pieces.length > 1 && this.pieces[1]!.stream <= stream) this.pieces.shift();
    const runs: { from: number; to: number; captured: number }[] = [];
    for (let i = 0; i < this.pieces.length; i++) {
      const piece = this.pieces[i]!;
      const next = this.pieces[i + 1]?.stream ?? Number.POSITIVE_INFINITY;
      const from = Math.max(stream, piece.stream);
      const to = Math.min(stream + samples, next);
      if (from < to) {
        runs.push({
          from: from - stream,
          to: to - stream,
          captured: piece.captured + from - piece.stream,
        });
      }
    }
    return runs;
  }
}

export interface Derived {
  readonly input: Block[];
  readonly output: Block[];
  readonly feedback: "howl" | "echo" | null;
}

export class Relay {
  private map = new CaptureMap();
  private pcm = new PcmDecoder();
  private received = 0;
  private readonly inputEnvelope: Envelope;
  private readonly outputEnvelope: Envelope;
  private readonly howl: HowlDetector;
  private readonly echo: EchoDetector;
  private howling = false;
  private echoing = false;
  private recorder: Recorder | null = null;

  constructor(private readonly sampleRate: number) {
    this.inputEnvelope = new Envelope(sampleRate);
    this.outputEnvelope = new Envelope(sampleRate);
    this.howl = new HowlDetector(sampleRate);
    this.echo = new EchoDetector(sampleRate);
  }

  /** A new connection: sample positions start at 0 again. */
  restart(): void {
    this.map = new CaptureMap();
    this.pcm = new PcmDecoder();
    this.received = 0;
  }

  /** A frame from the microphone; the bytes to send, where `send` says that the line takes them. */
  captured(position: number, pcm: Int16Array, send: boolean): ArrayBuffer | null {
    this.inputEnvelope.push(pcm, position);
    this.recorder?.putInput(position, pcm);
    if (this.howl.push(pcm)) this.howling = true;
    if (this.echo.push(pcm)) this.echoing = true;
    if (!send) return null;
    this.map.sentFrame(position, pcm.length);
    return encodePcm(pcm);
  }

  /** Audio from the server: chunks for the playout buffer, each with when it was captured. */
  answered(bytes: ArrayBuffer): { captured: number; pcm: Int16Array }[] {
    const pcm = this.pcm.push(bytes);
    const chunks = this.map.runs(this.received, pcm.length).map(({ from, to, captured }) => ({
      captured,
      pcm: pcm.slice(from, to),
    }));
    this.received += pcm.length;
    for (const { captured, pcm: part } of chunks) {
      this.outputEnvelope.push(part, captured);
      this.recorder?.putOutput(captured, part);
      // A copy: the buffer itself is handed on to the playout worklet.
      this.echo.play(part.slice());
    }
    return chunks;
  }

  /** A listener's label, by the blocks of the input that it is about. */
  labelled(event: ServerMessage & { type: "label" }): Label {
    const { label, score, lasts, from_sample: from, at_sample: at } = event;
    const block = (sample: number) =>
      (this.map.captured(sample, from) * BLOCKS_PER_S) / this.sampleRate;
    return { label, score, lasts, fromBlock: block(from), atBlock: block(at) };
  }

  take(): Derived {
    const input = this.inputEnvelope.take();
    const output = this.outputEnvelope.take();
    const feedback = this.howling ? "howl" : this.echoing ? "echo" : null;
    this.howling = false;
    this.echoing = false;
    return { input, output, feedback };
  }

  record(): void {
    this.recorder ??= new Recorder(this.sampleRate);
  }

  finishRecording(): Recording | null {
    const recording = this.recorder?.finish() ?? null;
    this.recorder = null;
    return recording;
  }
}
