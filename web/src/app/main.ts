// The page: joins the panels to the one call. The /fleet page is a second entry: src/fleet/main.ts.
import {
  voices as fetchVoices,
  type SessionEvent,
  type SessionState,
  UnderstudyError,
  type Voice,
} from "../sdk/index.ts";
import { Call } from "./call.ts";
import { ControlsPanel } from "./controls-panel.ts";
import { DevicesPanel } from "./devices-panel.ts";
import { byId, setText } from "./dom.ts";
import { HeardPanel } from "./heard-panel.ts";
import { LatencyPanel } from "./latency-panel.ts";
import { Meters } from "./meters.ts";
import { Scope } from "./scope.ts";
import { save, settings } from "./settings.ts";
import { Stage } from "./stage.ts";
import { askTakeover } from "./takeover.ts";
import { TakesPanel } from "./takes-panel.ts";
import { bindTheme } from "./theme.ts";
import { Today } from "./today.ts";
import { VoicesPanel } from "./voices-panel.ts";
import { WakeLock } from "./wake-lock.ts";
import { clock } from "./words.ts";

const HOWL_SENTENCE =
  "The microphone heard the loudspeaker and began to howl, so “Hear myself” was switched off. Wear headphones to use it.";
const ECHO_SENTENCE =
  "Your microphone seems to hear your loudspeaker, so the voice hears itself. Wear headphones, or switch on “cancel echo” below.";
const VOICES_RETRY_MS = 3000;

const stage = new Stage();
const scope = new Scope(byId<HTMLCanvasElement>("scope"));
const meters = new Meters();
const latency = new LatencyPanel();
const heard = new HeardPanel();
const takes = new TakesPanel();
const today = new Today();
const wakeLock = new WakeLock();
const call = new Call({ onState, onEvent });
const controls = new ControlsPanel((voice, params) => call.setParams(voice, params));
const voices = new VoicesPanel(pick);
const devices = new DevicesPanel(() => call.current, showError);

const monitor = byId<HTMLInputElement>("monitor");
const hear = byId<HTMLInputElement>("hear");
const user = byId<HTMLInputElement>("user");
let echoTold = false;
let recordingSince = 0;
let recordingTimer: ReturnType<typeof setInterval> | undefined;

function pick(voice: Voice): void {
  controls.show(voice);
  if (!call.active) setText(byId("scope-voice"), voice.title);
  void call.switchTo(voice);
}

function onState(state: SessionState, voice: Voice): void {
  stage.show(state, voice.title);
  wakeLock.set(state.name !== "ended");
  if (state.name === "connecting" && state.step === "stream") {
    scope.start();
    heard.reset();
    void devices.refresh();
  }
  if (state.name !== "ended") return;
  scope.stop();
  meters.reset();
  latency.showRegion(null);
  showRecording();
  void loadVoices();
  void today.load(settings.user);
  if (state.error?.code === "already_live") void offerTakeover(voice);
}

async function offerTakeover(voice: Voice): Promise<void> {
  const move = await askTakeover(settings.user);
  if (move) start(voice, true);
  byId("toggle").focus();
}

function onEvent(event: SessionEvent, voice: Voice): void {
  switch (event.type) {
    case "levels":
      scope.push(event.input, event.output);
      meters.push(event.input, event.output);
      break;
    case "label":
      scope.label(event.label, voice.labels?.[0] === event.label.label);
      heard.show(event.label);
      break;
    case "region":
      latency.showRegion(event.regions);
      break;
    case "usage":
      stage.use(event.usage);
      break;
    case "latency":
      latency.show(event.latency, event.playout);
      break;
    case "warning":
      stage.notify(event.error.message);
      break;
    case "feedback":
      heardItself(event.kind);
      break;
    case "recording":
      takes.add(event.recording, voice.name);
      break;
    case "state":
      break;
  }
}

function heardItself(kind: "howl" | "echo"): void {
  if (kind === "howl") {
    monitor.checked = false;
    byId("monitor-help").hidden = true;
    stage.notify(HOWL_SENTENCE);
  } else if (!echoTold) {
    echoTold = true;
    stage.notify(ECHO_SENTENCE);
  }
}

function showError(thrown: unknown): void {
  stage.notify(thrown instanceof UnderstudyError ? thrown.message : String(thrown));
}

function start(voice: Voice, takeover = false): void {
  stage.quiet();
  echoTold = false;
  call.start(voice, { takeover, monitor: monitor.checked });
}

function showRecording(): void {
  const on = call.isRecording;
  const button = byId("record");
  button.setAttribute("aria-pressed", String(on));
  clearInterval(recordingTimer);
  setText(byId("record-text"), "Record");
  if (!on) return;
  const tick = () => {
    const elapsedS = (performance.now() - recordingSince) / 1000;
    setText(byId("record-text"), `Recording ${clock(elapsedS)}`);
  };
  tick();
  recordingTimer = setInterval(tick, 500);
}

async function loadVoices(): Promise<void> {
  try {
    voices.show(await fetchVoices());
  } catch (thrown) {
    voices.say(
      thrown instanceof UnderstudyError
        ? "The server does not answer; trying again."
        : String(thrown),
    );
    setTimeout(() => void loadVoices(), VOICES_RETRY_MS);
  }
}

byId("toggle").addEventListener("click", () => {
  if (call.active) {
    void call.stop();
    return;
  }
  const voice = voices.picked;
  if (voice === null) stage.notify("There is no voice to start yet.");
  else start(voice);
});

byId("record").addEventListener("click", () => {
  call.toggleRecording();
  recordingSince = performance.now();
  showRecording();
});

monitor.addEventListener("change", () => {
  byId("monitor-help").hidden = !monitor.checked;
  call.current?.setMonitor(monitor.checked);
});

hear.checked = settings.hear;
hear.addEventListener("change", () => {
  save({ hear: hear.checked });
  call.current?.setGain(hear.checked ? 1 : 0);
});

user.value = settings.user;
save({ user: settings.user });
user.addEventListener("change", () => {
  const name = user.value.trim();
  if (name !== "") save({ user: name });
  user.value = settings.user;
  void today.load(settings.user);
});

bindTheme();
void devices.refresh();
void loadVoices();
void today.load(settings.user);
