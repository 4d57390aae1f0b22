// Where the servers are: turns the addresses given to `connect` into those of their parts.
import { clientError } from "./errors.ts";
import type { Voice } from "./protocol.ts";
import { trimUrl } from "./regions.ts";

const ANSWER_MS = 5000;

export interface Endpoint {
  readonly http: string;
  readonly stream: string;
}

/** One address, or one for each region. */
export type Addresses = string | readonly string[];

/** The server that serves this module, where no address is given. */
export function endpoint(url?: string): Endpoint {
  const base = new URL(url ?? "./", globalThis.location?.href);
  const http = trimUrl(base.href);
  return { http, stream: streamUrl(http) };
}

export function streamUrl(http: string): string {
  return `${http.replace(/^http/, "ws")}/v1/stream`;
}

/** The addresses, whole, at least one. */
export function addresses(url?: Addresses): string[] {
  const given = typeof url === "string" || url === undefined ? [url] : url;
  const whole = given.map((one) => endpoint(one).http);
  return whole.length > 0 ? [...new Set(whole)] : [endpoint().http];
}

/** The voices that the servers have: all regions have the same, so the first answer will do. */
export async function voices(url?: Addresses): Promise<readonly Voice[]> {
  try {
    return await Promise.any(addresses(url).map(voicesOf));
  } catch (thrown) {
    const first = thrown instanceof AggregateError ? (thrown.errors[0] as unknown) : thrown;
    throw clientError("server_unreachable", String(first));
  }
}

async function voicesOf(http: string): Promise<readonly Voice[]> {
  const signal = AbortSignal.timeout(ANSWER_MS);
  const response = await fetch(`${http}/v1/voices`, { cache: "no-store", signal });
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  const body = (await response.json()) as { voices?: readonly Voice[] };
  return body.voices ?? [];
}
