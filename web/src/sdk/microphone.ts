// Opens the microphone, and says what stands in the way.
import { clientError, microphoneError } from "./errors.ts";
import type { Processing } from "./options.ts";

const NO_PROCESSING: Processing = {
  echoCancellation: false,
  noiseSuppression: false,
  autoGainControl: false,
};

/** Throws where this page cannot have live voices at all. */
export function checkSupport(): void {
  if (!globalThis.isSecureContext) throw clientError("insecure_context");
  const needs = ["AudioWorkletNode", "AudioContext", "Worker", "WebSocket", "MessageChannel"];
  const missing = needs.filter((name) => !(name in globalThis));
  if (navigator.mediaDevices?.getUserMedia === undefined) missing.push("getUserMedia");
  if (missing.length > 0) throw clientError("unsupported_browser", missing.join(", "));
}

export async function openMicrophone(
  deviceId: string | undefined,
  processing: Partial<Processing>,
): Promise<MediaStream> {
  const audio: MediaTrackConstraints = {
    ...NO_PROCESSING,
    ...processing,
    channelCount: { ideal: 1 },
  };
  const ask = (constraints: MediaTrackConstraints) =>
    navigator.mediaDevices.getUserMedia({ audio: constraints, video: false });
  try {
    if (deviceId === undefined || deviceId === "") return await ask(audio);
    try {
      return await ask({ ...audio, deviceId: { exact: deviceId } });
    } catch (thrown) {
      // The chosen one is unplugged: the default one is better than none.
      if (!(thrown instanceof Error) || thrown.name !== "OverconstrainedError") throw thrown;
      return await ask(audio);
    }
  } catch (thrown) {
    throw microphoneError(thrown);
  }
}

/** What the microphone says of its own latency, in ms; 0 where it says nothing. */
export function inputLatencyMs(stream: MediaStream): number {
  const settings = stream.getAudioTracks()[0]?.getSettings() as
    | (MediaTrackSettings & { latency?: number })
    | undefined;
  return (settings?.latency ?? 0) * 1000;
}
