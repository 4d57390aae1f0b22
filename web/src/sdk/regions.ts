// Which edge to talk to: nearest first by measured round trip, and who is next when one is lost.
// Pure: what is measured, refused or silent is passed in. The Python client decides by the same
// golden vectors (tests/vectors/regions.json).

export interface Edge {
  readonly name: string;
  /** Empty: the server did not say. */
  readonly region: string;
  readonly url: string;
}

export interface Measured extends Edge {
  /** The quickest of a few small requests; null: none was answered in time. */
  readonly rttMs: number | null;
}

/** What became of a try: turned away at once, or nothing came in time. */
export type Failure = "refused" | "silent";

/** Home goes first unless another is nearer by more than this: measuring is no finer. */
const NEAR_MS = 5;
/** The first try at an edge that was just lost: it is there at once, or another one is. */
const SAME_EDGE_MS = 300;
/** Others are given more time, for many clients may come to them at the same moment. */
const OTHER_EDGE_MS = 1000;
const ONLY_EDGE_MS = 10_000;
const LONGEST_MS = 5000;
/** TCP, TLS and the upgrade. */
const ROUND_TRIPS_TO_OPEN = 4;
const MAX_PER_REGION = 2;

export function trimUrl(url: string): string {
  return url.replace(/[?#].*$/, "").replace(/\/+$/, "");
}

/** The edges in `GET /v1/regions`, the one that was asked first; only that one for an old server. */
export function parseRegions(body: unknown, home: string): Edge[] {
  const url = trimUrl(home);
  const answer = (body ?? {}) as { region?: unknown; edges?: unknown };
  const region = typeof answer.region === "string" ? answer.region : "";
  const listed: Edge[] = [];
  for (const one of Array.isArray(answer.edges) ? (answer.edges as unknown[]) : []) {
    const edge = (one ?? {}) as Record<string, unknown>;
    if (typeof edge.url !== "string" || edge.url === "") continue;
    const name = typeof edge.name === "string" ? edge.name : "";
    const where = typeof edge.region === "string" ? edge.region : "";
    listed.push({ name, region: where, url: trimUrl(edge.url) });
  }
  const own = listed.find((edge) => edge.url === url) ?? { name: "", region, url };
  return unique([own, ...listed]);
}

/** The first edge of each address. */
export function unique<E extends Edge>(edges: readonly E[]): E[] {
  return edges.filter((edge, at) => edges.findIndex((other) => other.url === edge.url) === at);
}

/** Home, and two edges a region, any two: the edges of one region are equals, and load is spread. */
export function candidates(edges: readonly Edge[], random: () => number): Edge[] {
  const [home, ...others] = edges;
  if (home === undefined) return [];
  const taken = new Map<string, number>([[home.region, 1]]);
  const picked: Edge[] = [home];
  for (const { edge } of others
    .map((edge) => ({ edge, at: random() }))
    .sort((a, b) => a.at - b.at)) {
    const count = taken.get(edge.region) ?? 0;
    if (edge.region !== "" && count >= MAX_PER_REGION) continue;
    taken.set(edge.region, count + 1);
    picked.push(edge);
  }
  return picked;
}

/** Nearest first, those that did not answer last; the first one given is home. */
export function nearestFirst(edges: readonly Measured[]): Measured[] {
  const order = edges
    .map((edge, at) => ({ edge, at, rtt: edge.rttMs ?? Number.POSITIVE_INFINITY }))
    .sort((a, b) => (a.rtt === b.rtt ? a.at - b.at : a.rtt - b.rtt))
    .map(({ edge }) => edge);
  const [home, best] = [edges[0]?.rttMs ?? null, order[0]?.rttMs ?? null];
  if (home === null || best === null || home - best > NEAR_MS) return order;
  return [edges[0]!, ...order.filter((edge) => edge !== edges[0])];
}

/** Round the list of edges: the one that was lost, then the nearest that are left, then again. */
export class Route {
  private order: readonly Measured[];
  private left: Measured[];
  private lostEdge: Measured | null = null;
  /** How many full rounds have failed since the line was lost. */
  round = 0;

  /** `order`: nearest first, at least one. */
  constructor(order: readonly Measured[]) {
    if (order.length === 0) throw new Error("a route needs at least one edge");
    this.order = order;
    this.left = [...order];
  }

  get edge(): Measured {
    return this.left[0]!;
  }

  /** Whether there is anywhere else to go. */
  get several(): boolean {
    return this.order.length > 1;
  }

  /** Whether the next try begins a round after a full one has failed. */
  get startsRound(): boolean {
    return this.round > 0 && this.left.length === this.order.length;
  }

  /** Whether the next try is the first at the edge that was just lost. */
  get returns(): boolean {
    return this.lostEdge !== null && this.round === 0 && this.edge.url === this.lostEdge.url;
  }

  /** Better measured, or more of them; the edge in use stays in use. */
  remeasure(order: readonly Measured[]): void {
    if (order.length === 0) return;
    this.order = order;
    const waiting = new Set(this.left.slice(1).map((edge) => edge.url));
    const now = order.find((edge) => edge.url === this.edge.url) ?? this.edge;
    const settled = this.lostEdge === null;
    this.left = [now, ...order.filter((e) => e.url !== now.url && (settled || waiting.has(e.url)))];
  }

  /** A line that had carried the session is gone: the same edge is first, then the others. */
  lost(): void {
    const edge = this.edge;
    this.lostEdge = edge;
    this.round = 0;
    this.left = [edge, ...this.order.filter((other) => other.url !== edge.url)];
  }

  /** A try has failed. A region that does not answer has its other edges tried last. */
  failed(how: Failure): void {
    const [gone, ...rest] = this.left;
    const same = (edge: Measured) => edge.region !== "" && edge.region === gone!.region;
    const late = how === "silent" ? rest.filter(same) : [];
    this.left = [...rest.filter((edge) => !late.includes(edge)), ...late];
    if (this.left.length > 0) return;
    this.left = [...this.order];
    this.round += 1;
  }

  /** The session is carried again. */
  joined(): void {
    this.lostEdge = null;
    this.round = 0;
    this.left = [this.edge, ...this.order.filter((other) => other.url !== this.edge.url)];
  }

  /** For how long to wait for the next try to open. */
  get openWithinMs(): number {
    if (!this.several) return ONLY_EDGE_MS;
    const least = this.returns ? SAME_EDGE_MS : OTHER_EDGE_MS;
    const fair = Math.max(least, ROUND_TRIPS_TO_OPEN * (this.edge.rttMs ?? 0));
    return Math.min(LONGEST_MS, fair * 2 ** this.round);
  }
}
