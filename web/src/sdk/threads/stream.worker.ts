// The thread that owns the WebSocket: sound goes worklet - worker - socket and back, and never
// touches the page's own thread. Decisions are in connection.ts, audio in relay.ts.
import { type Action, Connection } from "../connection.ts";
import { streamUrl } from "../endpoint.ts";
import { type Measured, Route } from "../regions.ts";
import type { CapturedFrame, FromWorker, ToPlayout, ToWorker } from "./messages.ts";
import { Relay } from "./relay.ts";

const TICK_MS = 50;
const LEVELS_EVERY_FRAMES = 4;
/** Beyond this much unsent audio the uplink is too slow; dropping input beats falling ever later. */
const MAX_UNSENT_S = 1;

const page = self as unknown as {
  postMessage(message: FromWorker, transfer?: Transferable[]): void;
  onmessage: ((event: MessageEvent<ToWorker>) => void) | null;
  close(): void;
};

class Stream {
  private readonly connection: Connection;
  private readonly relay: Relay;
  private socket: WebSocket | null = null;
  private frames = 0;
  private dropped = 0;
  private retryTimer: ReturnType<typeof setTimeout> | undefined;
  private readonly ticker: ReturnType<typeof setInterval>;

  constructor(private readonly options: ToWorker & { type: "start" }) {
    const { start, giveUpMs, capture, edges } = options;
    this.connection = new Connection(start, giveUpMs, Math.random, new Route(edges));
    this.relay = new Relay(start.sampleRate);
    capture.onmessage = ({ data }: MessageEvent<CapturedFrame>) => this.capture(data);
    this.ticker = setInterval(() => this.act(this.connection.tick(performance.now())), TICK_MS);
    this.act(this.connection.connect(performance.now()));
  }

  handle(message: ToWorker): void {
    switch (message.type) {
      case "params":
        this.act(this.connection.setParams(message.params));
        break;
      case "stop":
        this.act(this.connection.stop(performance.now()));
        break;
      case "retry":
        clearTimeout(this.retryTimer);
        this.act(this.connection.retry(performance.now()));
        break;
      case "edges":
        this.connection.remeasure(message.edges);
        return;
      case "record":
        if (message.on) this.relay.record();
        else this.handOverRecording();
        return;
      case "start":
        return;
    }
  }

  private handOverRecording(): void {
    const recording = this.relay.finishRecording();
    if (recording === null) return;
    const { input, output } = recording;
    page.postMessage({ type: "recording", recording }, [
      input.buffer as ArrayBuffer,
      output.buffer as ArrayBuffer,
    ]);
  }

  private capture({ position, pcm }: CapturedFrame): void {
    const socket = this.socket;
    const unsent = (socket?.bufferedAmount ?? 0) / 2 / this.options.start.sampleRate;
    const takes = this.connection.takesAudio && socket !== null;
    const fits = unsent < MAX_UNSENT_S;
    const bytes = this.relay.captured(position, pcm, takes && fits);
    if (bytes !== null) {
      socket?.send(bytes);
      this.connection.sentAudio(performance.now());
    }
    if (takes && !fits) this.dropped += pcm.length;
    this.frames += 1;
    if (this.frames % LEVELS_EVERY_FRAMES === 0) this.report();
  }

  private report(): void {
    const { input, output, feedback } = this.relay.take();
    page.postMessage({ type: "levels", input, output });
    if (feedback !== null) page.postMessage({ type: "feedback", kind: feedback });
    if (this.dropped > 0) page.postMessage({ type: "dropped", samples: this.dropped });
    this.dropped = 0;
  }

  private open({ url }: Measured): void {
    clearTimeout(this.retryTimer);
    this.drop();
    let socket: WebSocket;
    try {
      socket = new WebSocket(streamUrl(url));
    } catch {
      // An address that this page may not open, such as http from a page on https.
      queueMicrotask(() => this.act(this.connection.lost(performance.now())));
      return;
    }
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    const mine = () => this.socket === socket;
    socket.onopen = () => {
      if (!mine()) return;
      this.relay.restart();
      this.act(this.connection.opened(performance.now()));
    };
    socket.onmessage = ({ data }: MessageEvent<string | ArrayBuffer>) => {
      if (!mine()) return;
      if (typeof data === "string") this.act(this.connection.received(data, performance.now()));
      else {
        this.connection.heardAudio(performance.now());
        this.play(data);
      }
    };
    socket.onclose = () => {
      if (!mine()) return;
      this.socket = null;
      this.act(this.connection.lost(performance.now()));
    };
  }

  /** Forgets the socket; its later events are nobody's. */
  private drop(): void {
    const socket = this.socket;
    this.socket = null;
    socket?.close(1000);
  }

  private play(bytes: ArrayBuffer): void {
    for (const { captured, pcm } of this.relay.answered(bytes)) {
      this.toPlayout({ type: "audio", captured, pcm }, [pcm.buffer as ArrayBuffer]);
    }
  }

  private toPlayout(message: ToPlayout, transfer: Transferable[] = []): void {
    this.options.playout.postMessage(message, transfer);
  }

  private act(actions: readonly Action[]): void {
    for (const action of actions) {
      switch (action.do) {
        case "open":
          this.open(action.edge);
          break;
        case "send":
          this.socket?.send(action.text);
          break;
        case "close":
          this.drop();
          this.toPlayout({ type: "expect", due: false });
          break;
        case "retry":
          clearTimeout(this.retryTimer);
          this.retryTimer = setTimeout(
            () => this.act(this.connection.retry(performance.now())),
            action.inMs,
          );
          break;
        case "state":
          if (action.state.name === "ended") this.end();
          page.postMessage({ type: "state", state: action.state, edge: this.connection.edge });
          break;
        case "event":
          if (action.event.type === "label") {
            page.postMessage({ type: "label", label: this.relay.labelled(action.event) });
          } else page.postMessage({ type: "event", event: action.event });
          break;
        case "roundTrip":
          page.postMessage({ type: "roundTrip", ms: action.ms });
          break;
        case "warn":
          page.postMessage({ type: "warn", error: action.error });
          break;
      }
    }
  }

  private end(): void {
    clearInterval(this.ticker);
    clearTimeout(this.retryTimer);
    this.report();
    this.handOverRecording();
  }
}

let stream: Stream | null = null;
page.onmessage = ({ data }) => {
  if (data.type === "start") stream = new Stream(data);
  else stream?.handle(data);
};
