// A session: opens microphone, graph and worker, and turns what they say into events.
import { SlidingWindow } from "./audio/window.ts";
import type { ConnectionState } from "./connection.ts";
import { Emitter } from "./emitter.ts";
import { addresses, voices } from "./endpoint.ts";
import { clientError, serverError, UnderstudyError } from "./errors.ts";
import { Graph } from "./graph.ts";
import { LatencyMeter } from "./latency.ts";
import { type Survey, survey } from "./measure.ts";
import { checkSupport, inputLatencyMs, openMicrophone } from "./microphone.ts";
import type { ConnectOptions, Processing, SessionEvent, SessionState } from "./options.ts";
import type { Params, ServerMessage } from "./protocol.ts";
import type { Measured } from "./regions.ts";
import type { FromWorker, PlayoutReport, ToWorker } from "./threads/messages.ts";

/** Where the server does not know a voice's rate yet: it resamples. */
const DEFAULT_RATE = 24_000;
const PARAMS_EVERY_MS = 40;
const LATENCY_EVERY_REPORTS = 5;
/** The round trip shown for the edge in use is the median of so many. */
const PINGS = 5;

export class Session extends Emitter<SessionEvent> {
  private current: SessionState = { name: "connecting", step: "server" };
  private graph: Graph | null = null;
  private worker: Worker | null = null;
  private stream: MediaStream | null = null;
  private readonly meter: LatencyMeter;
  private readonly frameMs: number;
  private params: Params;
  private unsentParams: Params | null = null;
  private gain: number;
  private monitoring: boolean;
  private recordingOn = false;
  private reports = 0;
  private silentS = 0;
  private skippedS = 0;
  private closed = false;
  private latest: PlayoutReport | null = null;
  private edges: readonly Measured[] = [];
  private edge: Measured | null = null;
  private roundTrips = new SlidingWindow(PINGS);
  private readonly retry = () => this.tell({ type: "retry" });

  constructor(private readonly options: ConnectOptions) {
    super();
    this.frameMs = options.frameMs ?? 10;
    this.meter = new LatencyMeter(this.frameMs);
    this.params = options.params ?? {};
    this.gain = options.gain ?? 1;
    this.monitoring = options.monitor ?? false;
    // Later, so that the caller can listen first.
    queueMicrotask(() => void this.open());
  }

  get state(): SessionState {
    return this.current;
  }

  /** The rate of the audio on the wire, in Hz; null before the microphone is open. */
  get sampleRate(): number | null {
    return this.graph?.context.sampleRate ?? null;
  }

  get playout(): PlayoutReport | null {
    return this.latest;
  }

  private async open(): Promise<void> {
    try {
      checkSupport();
      this.enter({ name: "connecting", step: "server" });
      // Measured while the microphone is opened: it costs no time.
      const edges = survey(addresses(this.options.url));
      const listed = await voices(this.options.url).catch(async () =>
        voices((await edges.first).map(({ url }) => url)),
      );
      const voice = listed.find((v) => v.name === this.options.voice);
      if (this.closed) return;
      if (voice === undefined) {
        throw serverError("unknown_voice", `no voice '${this.options.voice}'`, false);
      }
      this.enter({ name: "connecting", step: "microphone" });
      const { deviceId, processing } = this.options;
      const stream = await openMicrophone(deviceId, processing ?? {});
      if (this.closed) return release(stream);
      this.hold(stream);
      this.enter({ name: "connecting", step: "stream" });
      await this.openGraph(stream, voice.sample_rate ?? DEFAULT_RATE, edges);
    } catch (thrown) {
      const error =
        thrown instanceof UnderstudyError
          ? thrown
          : clientError("unsupported_browser", String(thrown));
      this.finish({ name: "ended", reason: "failed", error });
    }
  }

  private async openGraph(
    stream: MediaStream,
    sampleRate: number,
    { first, all }: Survey,
  ): Promise<void> {
    const graph = await Graph.open(stream, {
      sampleRate,
      frameMs: this.frameMs,
      marginMs: this.options.marginMs ?? 20,
      maxMarginMs: this.options.maxMarginMs ?? 150,
      tap: this.options.tap ?? false,
    });
    if (this.closed) return graph.close();
    this.graph = graph;
    graph.onPlayout = (report) => this.played(report);
    graph.setVoiceGain(this.gain);
    graph.setMonitorGain(this.monitoring ? 1 : 0);
    // A phone call or a sleeping laptop suspends the context: take it up again when allowed.
    graph.context.onstatechange = () => {
      if (!this.closed && graph.context.state !== "running") void graph.context.resume();
    };
    void graph.context.resume();
    if (this.options.outputDeviceId) await this.setOutputDevice(this.options.outputDeviceId);
    this.edges = await first;
    if (this.closed) return;
    const worker = new Worker(new URL("./threads/stream.worker.ts", import.meta.url), {
      type: "module",
    });
    this.worker = worker;
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => this.heard(data);
    const { voice, user, takeover, token, giveUpMs } = this.options;
    const start: ToWorker = {
      type: "start",
      edges: this.edges,
      start: {
        voice,
        user,
        sampleRate: graph.context.sampleRate,
        params: this.params,
        takeover: takeover ?? false,
        token: token ?? null,
      },
      giveUpMs: giveUpMs ?? 600_000,
      capture: graph.capturePort,
      playout: graph.playoutPort,
    };
    worker.postMessage(start, [graph.capturePort, graph.playoutPort]);
    if (this.recordingOn) this.tell({ type: "record", on: true });
    globalThis.addEventListener("online", this.retry);
    void all.then((edges) => this.measured(edges));
  }

  /** The far edges have been measured too. */
  private measured(edges: readonly Measured[]): void {
    if (this.closed) return;
    this.edges = edges;
    this.tell({ type: "edges", edges });
    const measured = edges.find(({ url }) => url === this.edge?.url)?.rttMs ?? null;
    this.showRegion(this.roundTrips.quantiles()?.p50 ?? measured);
  }

  private showRegion(rttMs: number | null): void {
    const { edge, edges } = this;
    if (edge === null) return;
    this.emit({ type: "region", regions: { region: edge.region, rttMs, edges } });
  }

  private use(edge: Measured): void {
    const moved = edge.url !== this.edge?.url;
    this.edge = edge;
    if (!moved) return;
    this.roundTrips = new SlidingWindow(PINGS);
    this.showRegion(edge.rttMs);
  }

  private hold(stream: MediaStream): void {
    this.stream = stream;
    const track = stream.getAudioTracks()[0];
    track?.addEventListener("ended", () => {
      // Unplugged: go on with whatever microphone there is.
      if (!this.closed && this.stream === stream) {
        void this.setMicrophone("").catch((error: UnderstudyError) => {
          this.finish({ name: "ended", reason: "failed", error });
        });
      }
    });
  }

  private heard(message: FromWorker): void {
    switch (message.type) {
      case "state":
        if (message.state.name !== "reconnecting") this.use(message.edge);
        this.follow(message.state);
        break;
      case "event":
        this.usage(message.event);
        break;
      case "label":
        this.emit({ type: "label", label: message.label });
        break;
      case "warn": {
        const { code, detail, retryable } = message.error;
        this.emit({ type: "warning", error: serverError(code, detail, retryable) });
        break;
      }
      case "roundTrip":
        this.meter.putRoundTrip(message.ms);
        this.roundTrips.push(message.ms);
        this.showRegion(this.roundTrips.quantiles()?.p50 ?? null);
        break;
      case "levels":
        this.emit({ type: "levels", input: message.input, output: message.output });
        break;
      case "feedback":
        this.guard(message.kind);
        break;
      case "recording":
        this.emit({ type: "recording", recording: message.recording });
        break;
      case "dropped":
        return;
    }
  }

  private guard(kind: "howl" | "echo"): void {
    if (kind === "howl" && this.monitoring) {
      this.setMonitor(false);
      this.emit({ type: "feedback", kind });
    } else if (kind === "echo" && this.gain > 0) {
      this.emit({ type: "feedback", kind });
    }
  }

  private follow(state: ConnectionState): void {
    switch (state.name) {
      case "connecting":
        return;
      case "live":
        this.meter.putEngine(state.latencyMs);
        if (this.current.name !== "stopping") this.enter(state);
        break;
      case "queued":
      case "loading":
      case "reconnecting":
        // The server may still report on a session that is on its way out.
        if (this.current.name !== "stopping") this.enter(state);
        break;
      case "ended":
        this.ended(state);
        break;
    }
  }

  private ended({ reason, error }: ConnectionState & { name: "ended" }): void {
    if (reason === "unreachable" || reason === "lost") {
      const code = reason === "lost" ? "connection_lost" : "server_unreachable";
      this.finish({ name: "ended", reason: "failed", error: clientError(code) });
      return;
    }
    const said = error === null ? null : serverError(error.code, error.detail, error.retryable);
    // The last words are still in the playout buffer.
    const restMs = reason === "stopped" ? (this.latest?.depthMs ?? 0) + 20 : 0;
    setTimeout(() => this.finish({ name: "ended", reason, error: said }), restMs);
  }

  private usage(event: ServerMessage): void {
    if (event.type !== "usage" && event.type !== "ended") return;
    if (event.type === "usage") this.meter.putServer(event.queue_ms, event.engine_ms);
    if (event.type === "usage") {
      this.silentS = event.silent_s;
      this.skippedS = event.skipped_s ?? 0;
    }
    const { lead_s: leadS, understudy_s: understudyS } = event;
    const usage = { leadS, understudyS, silentS: this.silentS, skippedS: this.skippedS };
    this.emit({ type: "usage", usage });
  }

  private played(report: PlayoutReport): void {
    this.latest = report;
    if (this.graph !== null && this.stream !== null) {
      this.meter.putDevices(inputLatencyMs(this.stream), this.graph.outputLatencyMs);
    }
    this.meter.putPlayout(report);
    this.reports += 1;
    if (this.reports % LATENCY_EVERY_REPORTS !== 0) return;
    this.emit({ type: "latency", latency: this.meter.snapshot(), playout: report });
  }

  private tell(message: ToWorker): void {
    this.worker?.postMessage(message);
  }

  private enter(state: SessionState): void {
    if (this.closed) return;
    this.current = state;
    this.emit({ type: "state", state });
  }

  private finish(state: SessionState & { name: "ended" }): void {
    if (this.closed) return;
    this.enter(state);
    this.closed = true;
    globalThis.removeEventListener("online", this.retry);
    this.worker?.terminate();
    this.graph?.close();
    if (this.stream !== null) release(this.stream);
  }

  /** Changes numbers of the voice while talking; many calls in a row become one message. */
  setParams(params: Params): void {
    this.params = { ...this.params, ...params };
    if (this.unsentParams === null) {
      setTimeout(() => {
        if (this.unsentParams !== null) this.tell({ type: "params", params: this.unsentParams });
        this.unsentParams = null;
      }, PARAMS_EVERY_MS);
    }
    this.unsentParams = { ...this.unsentParams, ...params };
  }

  /** Hear the own voice, unchanged. For headphones: over loudspeakers it howls. */
  setMonitor(on: boolean): void {
    this.monitoring = on;
    this.graph?.setMonitorGain(on ? 1 : 0);
  }

  get monitor(): boolean {
    return this.monitoring;
  }

  /** Loudness of the changed voice, 0 to 1. */
  setGain(gain: number): void {
    this.gain = gain;
    this.graph?.setVoiceGain(gain);
  }

  /** False where the browser cannot choose the loudspeaker, or refuses this one. */
  async setOutputDevice(deviceId: string): Promise<boolean> {
    const context = this.graph?.context as
      | (AudioContext & { setSinkId?: (id: string) => Promise<void> })
      | undefined;
    if (context?.setSinkId === undefined) return false;
    return context.setSinkId(deviceId).then(
      () => true,
      () => false,
    );
  }

  /** Another microphone, or other processing, without a break in the session. */
  async setMicrophone(deviceId: string, processing?: Partial<Processing>): Promise<void> {
    const wanted = processing ?? this.options.processing ?? {};
    const stream = await openMicrophone(deviceId, wanted);
    if (this.closed || this.graph === null) return release(stream);
    const old = this.stream;
    this.hold(stream);
    this.graph.replaceMicrophone(stream);
    if (old !== null) release(old);
  }

  /** Keeps both sides from here on; stopRecording, or the end, emits `recording`. */
  startRecording(): void {
    this.recordingOn = true;
    this.tell({ type: "record", on: true });
  }

  stopRecording(): void {
    this.recordingOn = false;
    this.tell({ type: "record", on: false });
  }

  /** What the tap has recorded since the last call (option `tap`). */
  takeTap(): { input: Float32Array; output: Float32Array } | null {
    return this.graph?.takeTap() ?? null;
  }

  /** Says all that was said to the end, then ends. Resolves when the session has ended. */
  stop(): Promise<void> {
    if (this.closed) return Promise.resolve();
    const ended = new Promise<void>((resolve) => {
      this.on("state", ({ state }) => {
        if (state.name === "ended") resolve();
      });
    });
    if (this.worker === null) {
      this.finish({ name: "ended", reason: "stopped", error: null });
    } else {
      this.enter({ name: "stopping" });
      this.tell({ type: "stop" });
    }
    return ended;
  }
}

function release(stream: MediaStream): void {
  for (const track of stream.getTracks()) track.stop();
}
