// What the page, the worker and the two worklets say to each other.

import type { Block } from "../audio/envelope.ts";
import type { PlayoutOptions, PlayoutStats } from "../audio/playout-buffer.ts";
import type { Recording } from "../audio/recorder.ts";
import type { ConnectionState, StartFields, WireError } from "../connection.ts";
import type { Label } from "../options.ts";
import type { Params, ServerMessage } from "../protocol.ts";
import type { Measured } from "../regions.ts";

export type ToWorker =
  | {
      readonly type: "start";
      /** Nearest first, at least one. */
      readonly edges: readonly Measured[];
      readonly start: StartFields;
      readonly giveUpMs: number;
      readonly capture: MessagePort;
      readonly playout: MessagePort;
    }
  | { readonly type: "params"; readonly params: Params }
  | { readonly type: "record"; readonly on: boolean }
  | { readonly type: "stop" }
  /** Newer measurements. */
  | { readonly type: "edges"; readonly edges: readonly Measured[] }
  | { readonly type: "retry" };

export type FromWorker =
  /** `edge`: where the session is, or is tried next. */
  | { readonly type: "state"; readonly state: ConnectionState; readonly edge: Measured }
  | { readonly type: "event"; readonly event: ServerMessage }
  | { readonly type: "label"; readonly label: Label }
  | { readonly type: "warn"; readonly error: WireError }
  | { readonly type: "roundTrip"; readonly ms: number }
  | { readonly type: "levels"; readonly input: Block[]; readonly output: Block[] }
  | { readonly type: "feedback"; readonly kind: "howl" | "echo" }
  | { readonly type: "dropped"; readonly samples: number }
  | { readonly type: "recording"; readonly recording: Recording };

/** Capture worklet to worker: one frame. `position` is on the context's clock. */
export interface CapturedFrame {
  readonly position: number;
  readonly pcm: Int16Array<ArrayBuffer>;
}

/** Worker to playout worklet. */
export type ToPlayout =
  | { readonly type: "audio"; readonly captured: number; readonly pcm: Int16Array }
  | { readonly type: "expect"; readonly due: boolean };

export interface CaptureOptions {
  readonly frameSamples: number;
}

export type PlayoutNodeOptions = PlayoutOptions;
export type PlayoutReport = PlayoutStats;
