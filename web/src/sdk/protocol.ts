// The stream protocol, version 1 (docs/protocol.md): types, and text and PCM in and out. Pure.

export type Role = "lead" | "understudy";
export type Kind = "convert" | "listen";
export type Params = Readonly<Record<string, number>>;

export type ClientMessage =
  | {
      readonly type: "start";
      readonly voice: string;
      readonly user: string;
      readonly sample_rate: number;
      readonly params: Params;
      readonly takeover: boolean;
      readonly resume: string | null;
      readonly token: string | null;
    }
  | { readonly type: "params"; readonly params: Params }
  | { readonly type: "stop" }
  | { readonly type: "ping"; readonly id: number };

export interface Quantiles {
  readonly p50: number;
  readonly p95: number;
}

export const ERROR_CODES = [
  "bad_json",
  "bad_message",
  "audio_before_start",
  "start_timeout",
  "unknown_voice",
  "bad_sample_rate",
  "bad_params",
  "already_live",
  "message_too_big",
  "model_failed",
  "overloaded",
  "internal",
] as const;
export type ServerErrorCode = (typeof ERROR_CODES)[number];

export type EndReason = "stopped" | "taken_over" | "gone" | "error" | "shutdown";

export type ServerMessage = { readonly session: string } & (
  | {
      readonly type: "queued";
      readonly position: number;
      readonly eta_s: number | null;
      readonly resume: string;
    }
  | {
      readonly type: "loading";
      readonly eta_s: number | null;
      readonly progress: number;
      readonly resume: string;
    }
  | {
      readonly type: "live";
      readonly role: Role;
      readonly voice: string;
      readonly latency_ms: number;
      readonly latency_samples: number;
      readonly resume: string;
      /** Of a listener labels come, and no audio. An older server does not say. */
      readonly kind?: Kind;
    }
  | {
      readonly type: "label";
      readonly label: string;
      readonly score: number;
      /** In samples of the input: where what was heard began, and where it was known. */
      readonly from_sample: number;
      readonly at_sample: number;
      /** It holds until the next label; else it was said just now. */
      readonly lasts: boolean;
    }
  | {
      readonly type: "usage";
      readonly lead_s: number;
      readonly understudy_s: number;
      readonly silent_s: number;
      /** The user's own silence, which nobody was asked for and nobody pays. An older server does
       * not say. */
      readonly skipped_s?: number;
      readonly queue_ms: Quantiles | null;
      readonly engine_ms: Quantiles | null;
    }
  | { readonly type: "pong"; readonly id: number }
  | {
      readonly type: "error";
      readonly code: string;
      readonly message: string;
      readonly retryable: boolean;
    }
  | {
      readonly type: "ended";
      readonly reason: EndReason | string;
      readonly lead_s: number;
      readonly understudy_s: number;
    }
);

export interface Control {
  readonly min: number;
  readonly max: number;
  readonly default: number;
  readonly unit: string;
}

export interface Voice {
  readonly name: string;
  readonly title: string;
  readonly model: string;
  /** Null until a worker has loaded the model and said so. */
  readonly sample_rate: number | null;
  readonly latency_ms: number | null;
  readonly params: Params;
  readonly controls: Readonly<Record<string, Control>>;
  /** An older server does not say. */
  readonly kind?: Kind;
  /** All that a listener can say; where labels last, the first means that nothing is heard. */
  readonly labels?: readonly string[];
  readonly understudy: string | null;
  readonly ready: boolean;
}

/** The longest audio message the server takes. */
export const MAX_MESSAGE_MS = 200;

/** Fields that say no more than their absence are left out. */
export function encode(message: ClientMessage): string {
  if (message.type !== "start") return JSON.stringify(message);
  const { params, takeover, resume, token, ...rest } = message;
  return JSON.stringify({
    ...rest,
    ...(Object.keys(params).length > 0 ? { params } : {}),
    ...(takeover ? { takeover } : {}),
    ...(resume !== null ? { resume } : {}),
    ...(token !== null ? { token } : {}),
  });
}

type Check = (value: unknown) => boolean;
const isNumber: Check = (v) => typeof v === "number" && Number.isFinite(v);
const isString: Check = (v) => typeof v === "string";
const isBoolean: Check = (v) => typeof v === "boolean";
const isNumberOrNull: Check = (v) => v === null || isNumber(v);
const isQuantiles: Check = (v) => v === null || (isObject(v) && isNumber(v.p50) && isNumber(v.p95));

const FIELDS: Readonly<Record<ServerMessage["type"], Readonly<Record<string, Check>>>> = {
  queued: { position: isNumber, eta_s: isNumberOrNull, resume: isString },
  loading: { eta_s: isNumberOrNull, progress: isNumber, resume: isString },
  live: {
    role: (v) => v === "lead" || v === "understudy",
    voice: isString,
    latency_ms: isNumber,
    latency_samples: isNumber,
    resume: isString,
    kind: (v) => v === undefined || v === "convert" || v === "listen",
  },
  label: {
    label: isString,
    score: isNumber,
    from_sample: isNumber,
    at_sample: isNumber,
    lasts: isBoolean,
  },
  usage: {
    lead_s: isNumber,
    understudy_s: isNumber,
    silent_s: isNumber,
    skipped_s: (v) => v === undefined || isNumber(v),
    queue_ms: isQuantiles,
    engine_ms: isQuantiles,
  },
  pong: { id: isNumber },
  error: { code: isString, message: isString, retryable: isBoolean },
  ended: { reason: isString, lead_s: isNumber, understudy_s: isNumber },
};

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Null where the text is no event this client knows: a newer server may send more kinds. */
export function decode(text: string): ServerMessage | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (!isObject(value) || typeof value.type !== "string") return null;
  if (!Object.hasOwn(FIELDS, value.type)) return null;
  const fields = FIELDS[value.type as ServerMessage["type"]];
  for (const [name, check] of Object.entries(fields)) {
    if (!check(value[name])) return null;
  }
  return value as unknown as ServerMessage;
}

/** Float samples in -1..1 to int16, rounded and clipped as the server does it. */
export function toInt16(samples: Float32Array): Int16Array {
  const pcm = new Int16Array(samples.length);
  for (let i = 0; i < samples.length; i++) {
    const scaled = Math.round(samples[i]! * 32768);
    pcm[i] = scaled > 32767 ? 32767 : Math.max(scaled, -32768);
  }
  return pcm;
}

const LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

/** PCM on the wire is little-endian, whatever the machine is. */
export function encodePcm(pcm: Int16Array): ArrayBuffer {
  const bytes = new ArrayBuffer(pcm.length * 2);
  if (LITTLE_ENDIAN) {
    new Int16Array(bytes).set(pcm);
  } else {
    const view = new DataView(bytes);
    for (let i = 0; i < pcm.length; i++) view.setInt16(i * 2, pcm[i]!, true);
  }
  return bytes;
}

/** Joins messages into whole samples: an odd byte waits for its other half. */
export class PcmDecoder {
  private half: number | null = null;

  push(bytes: ArrayBuffer): Int16Array {
    const head = this.half === null ? 0 : 1;
    const total = bytes.byteLength + head;
    const source = new Uint8Array(bytes);
    if (head === 0 && total % 2 === 0 && LITTLE_ENDIAN) return new Int16Array(bytes);
    const joined = new Uint8Array(total);
    if (this.half !== null) joined[0] = this.half;
    joined.set(source, head);
    this.half = total % 2 === 1 ? joined[total - 1]! : null;
    const pcm = new Int16Array(total >> 1);
    const view = new DataView(joined.buffer);
    for (let i = 0; i < pcm.length; i++) pcm[i] = view.getInt16(i * 2, true);
    return pcm;
  }
}
