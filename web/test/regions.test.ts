// The golden vectors that the Python client's tests read too, and what only the browser does.
import { afterEach, describe, expect, it, vi } from "vitest";
import { places } from "../src/app/words.ts";
import { addresses } from "../src/sdk/endpoint.ts";
import { LineWatch } from "../src/sdk/line.ts";
import { survey } from "../src/sdk/measure.ts";
import {
  candidates,
  type Edge,
  type Measured,
  nearestFirst,
  parseRegions,
  Route,
} from "../src/sdk/regions.ts";

interface Vector {
  name: string;
}
interface VectorEdge {
  name: string;
  region: string;
  rtt_ms: number | null;
}
interface Step {
  event: "begin" | "joined" | "lost" | "refused" | "silent";
  edge: string;
  round: number;
  starts_round: boolean;
  open_within_ms: number;
}
interface Vectors {
  answers: (Vector & { home: string; body: unknown; edges: Edge[] })[];
  orders: (Vector & { edges: VectorEdge[]; order: string[] })[];
  routes: (Vector & { edges: VectorEdge[]; steps: Step[] })[];
  lines: (Vector & { steps: [number, string, (string | number)?][] })[];
}

const files = import.meta.glob<Vectors>("../../tests/vectors/regions.json", {
  eager: true,
  import: "default",
});
const vectors = Object.values(files)[0]!;

const measured = ({ name, region, rtt_ms: rttMs }: VectorEdge): Measured => ({
  name,
  region,
  url: `http://${name}`,
  rttMs,
});

describe("golden vectors", () => {
  for (const { name, home, body, edges } of vectors.answers) {
    it(`answer: ${name}`, () => expect(parseRegions(body, home)).toEqual(edges));
  }

  for (const { name, edges, order } of vectors.orders) {
    it(`order: ${name}`, () => {
      expect(nearestFirst(edges.map(measured)).map((edge) => edge.name)).toEqual(order);
    });
  }

  for (const { name, edges, steps } of vectors.routes) {
    it(`route: ${name}`, () => {
      const route = new Route(edges.map(measured));
      for (const step of steps) {
        if (step.event === "lost") route.lost();
        else if (step.event === "joined") route.joined();
        else if (step.event !== "begin") route.failed(step.event);
        expect({
          event: step.event,
          edge: route.edge.name,
          round: route.round,
          starts_round: route.startsRound,
          open_within_ms: route.openWithinMs,
        }).toEqual(step);
      }
    });
  }

  for (const { name, steps } of vectors.lines) {
    it(`line: ${name}`, () => {
      const line = new LineWatch();
      for (const [at, event, value] of steps) {
        if (event === "open") line.opened(at);
        else if (event === "live") line.performing(Number(value));
        else if (event === "sent") line.sentAudio(at);
        else if (event === "heard") line.heardAudio(at);
        else if (event === "text") line.heardText(at);
        else if (event === "round_trip") line.roundTrip(Number(value));
        else if (event === "false_alarm") line.falseAlarm(at);
        else expect([at, line.look(at)]).toEqual([at, value ?? "well"]);
      }
    });
  }
});

describe("edges to measure", () => {
  it("are home and two a region, any two", () => {
    const edges = ["sf", "sf", "sf", "tokyo", "tokyo", "tokyo", "tokyo"].map((region, k) => ({
      name: `${region}-${k}`,
      region,
      url: `http://${k}`,
    }));
    const seen = new Set<string>();
    for (let seed = 0; seed < 40; seed++) {
      let turn = seed;
      const picked = candidates(edges, () => {
        turn = (turn * 7 + 3) % 41;
        return turn / 41;
      });
      expect(picked[0]!.name).toBe("sf-0");
      expect(picked.map((edge) => edge.region).sort()).toEqual(["sf", "sf", "tokyo", "tokyo"]);
      for (const edge of picked) seen.add(edge.name);
    }
    expect(seen.size).toBe(7);
  });
});

describe("Route", () => {
  const order = [
    { name: "a", region: "sf", url: "http://a", rttMs: 10 },
    { name: "b", region: "tokyo", url: "http://b", rttMs: null },
    { name: "c", region: "frankfurt", url: "http://c", rttMs: null },
  ];

  it("takes newer measurements without leaving its edge", () => {
    const route = new Route(order);
    route.joined();
    const newer = [{ ...order[2]!, rttMs: 5 }, order[0]!, { ...order[1]!, rttMs: 90 }];
    route.remeasure(newer);
    expect(route.edge.name).toBe("a");
    route.lost();
    route.failed("refused");
    expect(route.edge.name).toBe("c");
    // In the middle of a round nothing is tried twice.
    route.remeasure(order);
    route.failed("refused");
    expect(route.edge.name).toBe("b");
    route.failed("refused");
    expect([route.edge.name, route.round]).toEqual(["a", 1]);
  });
});

describe("survey", () => {
  afterEach(() => {
    vi.unstubAllGlobals();
    vi.useRealTimers();
  });

  /** How long each address takes to answer, in ms; none: never. */
  function serve(delays: Record<string, number | null>, regions: Record<string, unknown> = {}) {
    vi.useFakeTimers();
    const asked: string[] = [];
    vi.stubGlobal("fetch", async (url: string, { signal }: { signal: AbortSignal }) => {
      asked.push(url);
      const { origin, pathname } = new URL(url);
      const delay = delays[origin] ?? null;
      if (delay === null) {
        return await new Promise((_, reject) => {
          signal.addEventListener("abort", () => reject(signal.reason));
        });
      }
      await new Promise((resolve) => setTimeout(resolve, delay));
      if (pathname === "/healthz") return new Response("ok");
      const body = regions[origin];
      return body === undefined
        ? new Response("", { status: 404 })
        : new Response(JSON.stringify(body));
    });
    vi.stubGlobal("AbortSignal", {
      timeout: (ms: number) => {
        const controller = new AbortController();
        setTimeout(() => controller.abort(new Error("timeout")), ms);
        return controller.signal;
      },
    });
    return asked;
  }
  const list = ["sf", "tokyo", "frankfurt"].map((region) => ({
    name: `${region}-1`,
    region,
    url: `http://${region}`,
  }));

  it("uses the only one at once, and measures nothing", async () => {
    const asked = serve({ "http://old": 5 });
    const { first } = survey(["http://old"]);
    await vi.runAllTimersAsync();
    expect(await first).toEqual([{ name: "", region: "", url: "http://old", rttMs: null }]);
    expect(asked).toEqual(["http://old/v1/regions"]);
  });

  it("finds the nearest, and a dead region costs no waiting", async () => {
    serve(
      { "http://sf": 40, "http://tokyo": 10, "http://frankfurt": null },
      { "http://sf": { region: "sf", edges: list } },
    );
    const { first, all } = survey(["http://sf"]);
    let chosen: Measured[] | null = null;
    void first.then((order) => {
      chosen = order;
    });
    await vi.advanceTimersByTimeAsync(300);
    expect(chosen!.map(({ name, rttMs }) => [name, rttMs])).toEqual([
      ["tokyo-1", 10],
      ["sf-1", null],
      ["frankfurt-1", null],
    ]);
    await vi.advanceTimersByTimeAsync(5000);
    expect((await all).map(({ name, rttMs }) => [name, rttMs])).toEqual([
      ["tokyo-1", 10],
      ["sf-1", 40],
      ["frankfurt-1", null],
    ]);
  });

  it("takes a list as it is, and asks for the names only", async () => {
    const asked = serve(
      { "http://sf": 5, "http://tokyo": 20 },
      {
        "http://sf": { region: "sf", edges: list },
        "http://tokyo": { region: "tokyo", edges: [] },
      },
    );
    const { all } = survey(["http://tokyo", "http://sf"]);
    await vi.runAllTimersAsync();
    expect((await all).map(({ region, rttMs }) => [region, rttMs])).toEqual([
      ["sf", 5],
      ["tokyo", 20],
    ]);
    expect(asked.filter((url) => url.includes("frankfurt"))).toEqual([]);
  });

  it("remembers the edges of a server that has died since", async () => {
    const regions = { "http://sf": { region: "sf", edges: list } };
    serve({ "http://sf": 5, "http://tokyo": 20, "http://frankfurt": 30 }, regions);
    const before = survey(["http://sf"]).all;
    await vi.runAllTimersAsync();
    await before;
    serve({ "http://tokyo": 20, "http://frankfurt": 30 });
    const after = survey(["http://sf"]).all;
    await vi.runAllTimersAsync();
    expect((await after).map((edge) => edge.name)).toEqual(["tokyo-1", "frankfurt-1", "sf-1"]);
  });
});

describe("addresses", () => {
  it("are one or many, each once", () => {
    expect(addresses("http://a:1/")).toEqual(["http://a:1"]);
    expect(addresses(["http://a:1", "http://b:2/x?y", "http://a:1/"])).toEqual([
      "http://a:1",
      "http://b:2/x",
    ]);
  });
});

describe("the page", () => {
  it("lists each region once, by its nearest edge", () => {
    const edge = (region: string, rttMs: number | null) => ({ name: "", region, url: "", rttMs });
    const edges = [edge("sf", 12.3), edge("sf", 14), edge("tokyo", 110), edge("frankfurt", null)];
    expect(places({ region: "sf", rttMs: 9, edges })).toBe(
      "sf · 12 ms\ntokyo · 110 ms\nfrankfurt · no answer",
    );
  });
});
