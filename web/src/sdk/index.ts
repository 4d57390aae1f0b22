// The client SDK: `connect` and the types that go with it.
import type { ConnectOptions } from "./options.ts";
import { Session } from "./session.ts";

/** Starts a session at once; call it from a click, since browsers want one before sound. */
export function connect(options: ConnectOptions): Session {
  return new Session(options);
}

export type { Block } from "./audio/envelope.ts";
export { BLOCKS_PER_S } from "./audio/envelope.ts";
export type { PlayoutStats } from "./audio/playout-buffer.ts";
export type { Recording } from "./audio/recorder.ts";
export { encodeWav } from "./audio/wav.ts";
export type { Coming } from "./connection.ts";
export { type Addresses, endpoint, voices } from "./endpoint.ts";
export { type ErrorCode, UnderstudyError } from "./errors.ts";
export { LATENCY_PARTS, type Latency, type LatencyPart } from "./latency.ts";
export { checkSupport } from "./microphone.ts";
export type {
  ConnectOptions,
  Label,
  Processing,
  Regions,
  SessionEvent,
  SessionState,
  Usage,
} from "./options.ts";
export type { Control, Kind, Params, Quantiles, Role, Voice } from "./protocol.ts";
export type { Edge, Measured } from "./regions.ts";
export { Session } from "./session.ts";
