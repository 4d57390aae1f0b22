// What `connect` takes, and the events and states that a session has.
import type { Block } from "./audio/envelope.ts";
import type { PlayoutStats } from "./audio/playout-buffer.ts";
import type { Recording } from "./audio/recorder.ts";
import type { Coming } from "./connection.ts";
import type { Addresses } from "./endpoint.ts";
import type { UnderstudyError } from "./errors.ts";
import type { Latency } from "./latency.ts";
import type { EndReason, Params, Role } from "./protocol.ts";
import type { Measured } from "./regions.ts";

export interface Processing {
  readonly echoCancellation: boolean;
  readonly noiseSuppression: boolean;
  readonly autoGainControl: boolean;
}

export interface ConnectOptions {
  readonly voice: string;
  readonly user: string;
  /**
   * The server's address; without it, the server that serves the page. It is asked for the edges in
   * other regions. A list (one address a region) is taken as it is. The nearest is used, and when
   * it is lost, the next nearest.
   */
  readonly url?: Addresses | undefined;
  readonly params?: Params | undefined;
  /** The user's token, where the server asks for one. */
  readonly token?: string | undefined;
  /** End the user's other stream instead of being refused with `already_live`. */
  readonly takeover?: boolean | undefined;
  /** Of the microphone and the loudspeaker, as `enumerateDevices` names them. */
  readonly deviceId?: string | undefined;
  readonly outputDeviceId?: string | undefined;
  /** What the browser does to the microphone's sound: all off, for the voice as it is. */
  readonly processing?: Partial<Processing> | undefined;
  /** How much audio a message holds. */
  readonly frameMs?: number | undefined;
  /** The playout buffer's reserve on a good line, and at most. */
  readonly marginMs?: number | undefined;
  readonly maxMarginMs?: number | undefined;
  /** Loudness of the changed voice, 0 (silent) to 1. */
  readonly gain?: number | undefined;
  /** Hear the own voice, unchanged. */
  readonly monitor?: boolean | undefined;
  /** For how long to try to get a lost connection back. */
  readonly giveUpMs?: number | undefined;
  /** Record both sides on one clock, for measurements. */
  readonly tap?: boolean | undefined;
}

export type SessionState =
  | { readonly name: "connecting"; readonly step: "server" | "microphone" | "stream" }
  | { readonly name: "queued"; readonly position: number; readonly etaS: number | null }
  | { readonly name: "loading"; readonly progress: number; readonly etaS: number | null }
  | {
      readonly name: "live";
      readonly role: Role;
      readonly voice: string;
      readonly latencyMs: number;
      /** A listener: labels come, and nothing is to be heard. */
      readonly listens: boolean;
      /** While the understudy performs: how far the lead is. Null: not known, or not coming. */
      readonly lead: Coming | null;
    }
  | {
      readonly name: "reconnecting";
      readonly attempt: number;
      readonly retryInMs: number;
      /** The region it is tried in, where that is not the one that was lost. */
      readonly to: string | null;
    }
  | { readonly name: "stopping" }
  | {
      readonly name: "ended";
      readonly reason: EndReason | "failed";
      readonly error: UnderstudyError | null;
    };

export interface Usage {
  readonly leadS: number;
  readonly understudyS: number;
  readonly silentS: number;
  /** The user's own silence, where the voice skips that. */
  readonly skippedS: number;
}

/** What a listener heard. */
export interface Label {
  readonly label: string;
  /** 0 to 1. */
  readonly score: number;
  /** It holds until the next label; else it was said just now. */
  readonly lasts: boolean;
  /** Where what was heard began, and where it was known: blocks on the clock of `levels`. */
  readonly fromBlock: number;
  readonly atBlock: number;
}

/** Where the session is, and how far the edges are. */
export interface Regions {
  /** The region of the edge in use; empty: the server did not say. */
  readonly region: string;
  /** Its round trip: by the line itself, once there is one. Null: not measured. */
  readonly rttMs: number | null;
  /** All edges, nearest first, as they were measured. */
  readonly edges: readonly Measured[];
}

export type SessionEvent =
  | { readonly type: "state"; readonly state: SessionState }
  /** When the edges have been measured, when the session is at another one, once a second. */
  | { readonly type: "region"; readonly regions: Regions }
  | { readonly type: "usage"; readonly usage: Usage }
  | { readonly type: "latency"; readonly latency: Latency; readonly playout: PlayoutStats }
  /** 10 ms blocks, in and out, with the same index for the same instant. */
  | { readonly type: "levels"; readonly input: readonly Block[]; readonly output: readonly Block[] }
  | { readonly type: "label"; readonly label: Label }
  /** Refused, but the session goes on. */
  | { readonly type: "warning"; readonly error: UnderstudyError }
  /** The microphone hears the loudspeaker. On a howl, "hear myself" has been switched off. */
  | { readonly type: "feedback"; readonly kind: "howl" | "echo" }
  | { readonly type: "recording"; readonly recording: Recording };
