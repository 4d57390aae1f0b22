// Asks the servers which edges there are, and measures how far each is: a few small requests.
import {
  candidates,
  type Edge,
  type Measured,
  nearestFirst,
  parseRegions,
  unique,
} from "./regions.ts";

const DISCOVER_MS = 800;
const ALL_MS = 3000;
/** All begin at once, so what is nearer than the first to finish finishes with it, or soon. */
const GRACE_MS = 60;
const PROBES = 3;

/** The edges as far as they are known by then. */
export interface Survey {
  /** Soon: as soon as the nearest is known. Nearest first, at least one. */
  readonly first: Promise<Measured[]>;
  /** At the end: as many as answered. */
  readonly all: Promise<Measured[]>;
}

/** What edges the last surveys found, for when the one that would be asked is down. */
const remembered = new Map<string, Edge[]>();

/** The edges to choose from. `addresses`: one, which is asked for the others, or all there are. */
export async function discover(addresses: readonly string[]): Promise<Edge[]> {
  const asked = await Promise.all(addresses.map(ask));
  if (addresses.length === 1) return candidates(asked[0]!, Math.random);
  // The choice is made; only the names of the regions are asked for.
  return unique(asked.map((edges) => edges[0]!));
}

/** The address itself first. */
async function ask(url: string): Promise<Edge[]> {
  try {
    const signal = AbortSignal.timeout(DISCOVER_MS);
    const response = await fetch(`${url}/v1/regions`, { cache: "no-store", signal });
    // 404: an older server, which knows of no others.
    const edges = parseRegions(response.ok ? await response.json() : null, url);
    remembered.set(url, edges);
    return edges;
  } catch {
    return remembered.get(url) ?? parseRegions(null, url);
  }
}

export function survey(addresses: readonly string[]): Survey {
  const edges = discover(addresses);
  const measured = edges.then((found) => (found.length === 1 ? unmeasured(found) : race(found)));
  return {
    first: measured.then((survey) => survey.first),
    all: measured.then((survey) => survey.all),
  };
}

/** The only one: there is nothing to choose, and its line tells its round trip. */
function unmeasured(edges: readonly Edge[]): Survey {
  const order = edges.map((edge) => ({ ...edge, rttMs: null }));
  return { first: Promise.resolve(order), all: Promise.resolve(order) };
}

function race(edges: readonly Edge[]): Survey {
  const rtts = new Map<string, number>();
  const order = () =>
    nearestFirst(edges.map((edge) => ({ ...edge, rttMs: rtts.get(edge.url) ?? null })));
  const began = performance.now();
  const probes = edges.map(async (edge) => {
    rtts.set(edge.url, await roundTrip(edge.url));
  });
  const all = Promise.allSettled(probes).then(order);
  const nearest = Promise.any(probes)
    .then(() => wait(GRACE_MS + (performance.now() - began) / 2))
    .catch(() => undefined);
  return { first: Promise.race([nearest, all]).then(order), all };
}

/** The quickest of a few, in ms, after one that opens the connection. Rejects if one fails. */
export async function roundTrip(url: string): Promise<number> {
  const signal = AbortSignal.timeout(ALL_MS);
  let best = Number.POSITIVE_INFINITY;
  for (let probe = 0; probe <= PROBES; probe++) {
    const began = performance.now();
    // The answer of another origin may not be read, but that it came is enough.
    const response = await fetch(probeUrl(url, probe), {
      mode: "no-cors",
      cache: "no-store",
      credentials: "omit",
      signal,
    });
    const took = performance.now() - began;
    if (response.type !== "opaque" && !response.ok) throw new Error(`HTTP ${response.status}`);
    // Read to the end, or the next probe opens a connection of its own.
    if (response.type !== "opaque") await response.text();
    if (probe > 0) best = Math.min(best, took);
  }
  return Math.min(best, ...byBrowser(url));
}

function probeUrl(url: string, probe: number): string {
  return `${url}/healthz?probe=${probe}`;
}

/** The browser's own figures, where it keeps them: a busy page does not make them longer. */
function byBrowser(url: string): number[] {
  return Array.from({ length: PROBES }, (_, k) => probeUrl(url, k + 1))
    .flatMap((name) => performance.getEntriesByName(name, "resource"))
    .map((entry) => entry.duration)
    .filter((ms) => ms > 0);
}

function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
