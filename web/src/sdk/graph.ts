// The audio graph of a session: microphone → capture worklet, playout worklet → loudspeaker.

import { clientError } from "./errors.ts";
import captureUrl from "./threads/capture.worklet.ts?worker&url";
import type { CaptureOptions, PlayoutNodeOptions, PlayoutReport } from "./threads/messages.ts";
import playoutUrl from "./threads/playout.worklet.ts?worker&url";
import tapUrl from "./threads/tap.worklet.ts?worker&url";

export interface GraphOptions {
  readonly sampleRate: number;
  readonly frameMs: number;
  readonly marginMs: number;
  readonly maxMarginMs: number;
  readonly tap: boolean;
}

/** The context at the voice's own rate, so that nobody resamples but the browser, once. */
function openContext(sampleRate: number, stream: MediaStream): AudioContext {
  const context = new AudioContext({ sampleRate, latencyHint: "interactive" });
  try {
    context.createMediaStreamSource(stream).disconnect();
    return context;
  } catch {
    // Firefox joins no microphone to a context of another rate: take its own, the server resamples.
    void context.close();
    return new AudioContext({ latencyHint: "interactive" });
  }
}

export class Graph {
  readonly context: AudioContext;
  readonly capturePort: MessagePort;
  readonly playoutPort: MessagePort;
  onPlayout: ((report: PlayoutReport) => void) | null = null;
  private readonly capture: AudioWorkletNode;
  private readonly playout: AudioWorkletNode;
  private readonly voiceGain: GainNode;
  private readonly monitorGain: GainNode;
  private readonly tap: AudioWorkletNode | null;
  private tapped: Float32Array[][] = [];
  private source: MediaStreamAudioSourceNode;

  static async open(stream: MediaStream, options: GraphOptions): Promise<Graph> {
    const context = openContext(options.sampleRate, stream);
    try {
      const modules = options.tap ? [captureUrl, playoutUrl, tapUrl] : [captureUrl, playoutUrl];
      await Promise.all(modules.map((url) => context.audioWorklet.addModule(url)));
      return new Graph(context, stream, options);
    } catch (thrown) {
      void context.close();
      throw clientError("unsupported_browser", String(thrown));
    }
  }

  private constructor(context: AudioContext, stream: MediaStream, options: GraphOptions) {
    this.context = context;
    this.capture = new AudioWorkletNode(context, "understudy-capture", {
      channelCount: 1,
      channelCountMode: "explicit",
      processorOptions: {
        frameSamples: Math.round((context.sampleRate * options.frameMs) / 1000),
      } satisfies CaptureOptions,
    });
    this.playout = new AudioWorkletNode(context, "understudy-playout", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: {
        sampleRate: context.sampleRate,
        marginMs: options.marginMs,
        maxMarginMs: options.maxMarginMs,
      } satisfies PlayoutNodeOptions,
    });
    this.playout.port.onmessage = ({ data }: MessageEvent<PlayoutReport>) => this.onPlayout?.(data);
    this.capturePort = hand(this.capture);
    this.playoutPort = hand(this.playout);
    this.voiceGain = new GainNode(context);
    this.monitorGain = new GainNode(context, { gain: 0 });
    this.playout.connect(this.voiceGain).connect(context.destination);
    this.monitorGain.connect(context.destination);
    // A node that leads nowhere may be left out of rendering: its output is silence.
    this.capture.connect(context.destination);
    this.tap = options.tap ? this.openTap() : null;
    this.source = this.join(stream);
  }

  private openTap(): AudioWorkletNode {
    const tap = new AudioWorkletNode(this.context, "understudy-tap", {
      numberOfInputs: 2,
      channelCount: 1,
      channelCountMode: "explicit",
    });
    tap.port.onmessage = ({ data }: MessageEvent<Float32Array[]>) => this.tapped.push(data);
    this.playout.connect(tap, 0, 1);
    tap.connect(this.context.destination);
    return tap;
  }

  private join(stream: MediaStream): MediaStreamAudioSourceNode {
    const source = this.context.createMediaStreamSource(stream);
    source.connect(this.capture);
    source.connect(this.monitorGain);
    if (this.tap !== null) source.connect(this.tap, 0, 0);
    return source;
  }

  /** Another microphone, while talking. */
  replaceMicrophone(stream: MediaStream): void {
    const source = this.join(stream);
    this.source.disconnect();
    this.source = source;
  }

  /** Gains move over 20 ms, so that nothing clicks. */
  setVoiceGain(gain: number): void {
    this.voiceGain.gain.setTargetAtTime(gain, this.context.currentTime, 0.02);
  }

  setMonitorGain(gain: number): void {
    this.monitorGain.gain.setTargetAtTime(gain, this.context.currentTime, 0.02);
  }

  get outputLatencyMs(): number {
    // outputLatency holds baseLatency; where a browser lacks it, baseLatency is the least there is.
    return Math.max(this.context.outputLatency || 0, this.context.baseLatency || 0) * 1000;
  }

  /** Both sides as the tap recorded them: microphone, loudspeaker. */
  takeTap(): { input: Float32Array; output: Float32Array } {
    const join = (side: number) => {
      const chunks = this.tapped.map((sides) => sides[side]!);
      const all = new Float32Array(chunks.reduce((sum, c) => sum + c.length, 0));
      let at = 0;
      for (const chunk of chunks) {
        all.set(chunk, at);
        at += chunk.length;
      }
      return all;
    };
    const taken = { input: join(0), output: join(1) };
    this.tapped = [];
    return taken;
  }

  close(): void {
    this.source.disconnect();
    this.onPlayout = null;
    if (this.context.state !== "closed") void this.context.close();
  }
}

/** Gives the worklet one end of a channel; the other end goes to the worker. */
function hand(node: AudioWorkletNode): MessagePort {
  const { port1, port2 } = new MessageChannel();
  node.port.postMessage(port1, [port1]);
  return port2;
}
