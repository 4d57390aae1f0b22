// Every way a session can fail, each with a sentence that says what to do.
import type { ServerErrorCode } from "./protocol.ts";

export const CLIENT_SENTENCES = {
  mic_denied:
    "The microphone is blocked for this page. Allow it in the address bar (the lock or microphone sign), then press Start again.",
  no_mic:
    "No microphone was found. Plug one in, or switch it on in the system settings, then press Start again.",
  mic_busy:
    "The microphone could not be opened. Close other programs that use it, then press Start again.",
  unsupported_browser:
    "This browser lacks the audio features that live voices need. Use a current Chrome, Edge, Firefox or Safari.",
  insecure_context:
    "Browsers give the microphone to secure pages only. Open this page over https, or on localhost.",
  server_unreachable:
    "The server does not answer. See that it is running and that you are online, then press Start again.",
  connection_lost:
    "The connection was lost and did not come back. See that you are online, then press Start again.",
} as const;
export type ClientErrorCode = keyof typeof CLIENT_SENTENCES;

const SERVER_SENTENCES: Readonly<Record<ServerErrorCode, string>> = {
  bad_json:
    "The server could not read a message of this page. Reload the page: it may be out of date.",
  bad_message: "The server refused a message of this page. Reload the page: it may be out of date.",
  audio_before_start: "The server got audio too early. Reload the page: it may be out of date.",
  start_timeout: "The connection was too slow to start in time. Press Start again.",
  unknown_voice: "The server has no voice of this name. Pick another one from the list.",
  bad_sample_rate: "The server refuses the microphone's sample rate. Set it between 8 and 48 kHz.",
  bad_params: "The voice does not take this setting. Reset the sliders.",
  already_live: "You are live somewhere else. Move the stream here, or stop it there.",
  message_too_big:
    "The server refused a message for its size. Choose shorter frames, or reload the page.",
  model_failed: "The voice could not be loaded. Pick another one, or try again in a minute.",
  overloaded: "The server is full. Try again in a minute.",
  internal:
    "Something broke on the server. Press Start again; if it goes on, tell who runs the server.",
};

export type ErrorCode = ClientErrorCode | ServerErrorCode | "unknown";

export class UnderstudyError extends Error {
  constructor(
    readonly code: ErrorCode,
    /** What to do, in a sentence for people. */
    message: string,
    readonly retryable: boolean,
    /** What the server or the browser said, for developers. */
    readonly detail: string = "",
  ) {
    super(message);
    this.name = "UnderstudyError";
  }
}

export function clientError(code: ClientErrorCode, detail = ""): UnderstudyError {
  return new UnderstudyError(code, CLIENT_SENTENCES[code], true, detail);
}

export function serverError(code: string, detail: string, retryable: boolean): UnderstudyError {
  if (Object.hasOwn(SERVER_SENTENCES, code)) {
    const known = code as ServerErrorCode;
    return new UnderstudyError(known, SERVER_SENTENCES[known], retryable, detail);
  }
  // A newer server: its own sentence is better than none.
  return new UnderstudyError("unknown", detail || "The server refused.", retryable, detail);
}

/** getUserMedia rejects with a DOMException whose name says why. */
export function microphoneError(thrown: unknown): UnderstudyError {
  const name = thrown instanceof Error ? thrown.name : "";
  const detail = thrown instanceof Error ? `${thrown.name}: ${thrown.message}` : String(thrown);
  if (name === "NotAllowedError" || name === "SecurityError")
    return clientError("mic_denied", detail);
  if (name === "NotFoundError" || name === "OverconstrainedError")
    return clientError("no_mic", detail);
  return clientError("mic_busy", detail);
}
