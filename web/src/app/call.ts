// The one session of the page: starts, stops, switches voices, and passes its events on.
import {
  connect,
  type Params,
  type Session,
  type SessionEvent,
  type SessionState,
  type Voice,
} from "../sdk/index.ts";
import { save, settings } from "./settings.ts";

export interface CallListeners {
  onState(state: SessionState, voice: Voice): void;
  onEvent(event: SessionEvent, voice: Voice): void;
}

export class Call {
  private session: Session | null = null;
  private voice: Voice | null = null;
  private recording = false;
  private switching = false;
  /** The voice picked last, while the one before it says its last words. */
  private wanted: Voice | null = null;

  constructor(private readonly listeners: CallListeners) {}

  get active(): boolean {
    return this.session !== null;
  }

  get isRecording(): boolean {
    return this.recording;
  }

  /** The current session, for devices and gains; null when there is none. */
  get current(): Session | null {
    return this.session;
  }

  start(voice: Voice, options: { takeover?: boolean; monitor?: boolean } = {}): void {
    if (this.session !== null) return;
    const session = connect({
      voice: voice.name,
      user: settings.user,
      params: paramsOf(voice),
      takeover: options.takeover ?? false,
      deviceId: settings.microphone,
      outputDeviceId: settings.speaker,
      processing: settings.processing,
      gain: settings.hear ? 1 : 0,
      monitor: options.monitor ?? false,
    });
    this.session = session;
    this.voice = voice;
    if (this.recording) session.startRecording();
    session.on("state", (event) => this.follow(session, event.state, voice));
    for (const type of [
      "region",
      "usage",
      "latency",
      "levels",
      "warning",
      "feedback",
      "recording",
      "label",
    ] as const) {
      session.on(type, (event) => this.listeners.onEvent(event, voice));
    }
  }

  private follow(session: Session, state: SessionState, voice: Voice): void {
    if (this.session !== session) return;
    if (state.name === "ended") {
      this.session = null;
      if (!this.switching) this.recording = false;
    }
    if (!this.switching || state.name !== "ended") this.listeners.onState(state, voice);
  }

  async stop(): Promise<void> {
    await this.session?.stop();
  }

  /** Another voice, while talking: the old one says its last words, the new one follows. */
  async switchTo(voice: Voice): Promise<void> {
    const session = this.session;
    this.wanted = voice;
    if (session === null || this.switching || voice.name === this.voice?.name) return;
    if (session.state.name === "stopping") return;
    this.switching = true;
    const monitor = session.monitor;
    await session.stop();
    this.switching = false;
    // Our own old stream may not be let go of yet.
    this.start(this.wanted, { takeover: true, monitor });
  }

  setParams(voice: Voice, params: Params): void {
    save({ params: { ...settings.params, [voice.name]: { ...paramsOf(voice), ...params } } });
    if (this.voice?.name === voice.name) this.session?.setParams(params);
  }

  toggleRecording(): void {
    this.recording = !this.recording;
    if (this.recording) this.session?.startRecording();
    else this.session?.stopRecording();
  }
}

/** The sliders as they were left for this voice, less what it no longer has. */
export function paramsOf(voice: Voice): Params {
  const stored = settings.params[voice.name] ?? {};
  const params: Record<string, number> = {};
  for (const [name, { min, max }] of Object.entries(voice.controls)) {
    const value = stored[name];
    if (value !== undefined && value >= min && value <= max) params[name] = value;
  }
  return params;
}
