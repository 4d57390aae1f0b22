// Where the server is: turns the address given to `connect` into the addresses of its parts.
import { clientError } from "./errors.ts";
import type { Voice } from "./protocol.ts";

export interface Endpoint {
  readonly http: string;
  readonly stream: string;
}

/** The server that serves this module, where no address is given. */
export function endpoint(url?: string): Endpoint {
  // Region selection goes here: given several addresses, ask each for /healthz, take the nearest.
  const base = new URL(url ?? "./", globalThis.location?.href);
  const http = base.href.replace(/[?#].*$/, "").replace(/\/$/, "");
  return { http, stream: `${http.replace(/^http/, "ws")}/v1/stream` };
}

/** The voices that the server has. */
export async function voices(url?: string): Promise<readonly Voice[]> {
  let response: Response;
  try {
    response = await fetch(`${endpoint(url).http}/v1/voices`, { cache: "no-store" });
  } catch (thrown) {
    throw clientError("server_unreachable", String(thrown));
  }
  if (!response.ok) throw clientError("server_unreachable", `HTTP ${response.status}`);
  const body = (await response.json()) as { voices?: readonly Voice[] };
  return body.voices ?? [];
}
