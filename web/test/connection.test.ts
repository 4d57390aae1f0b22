import { describe, expect, it } from "vitest";
import { type Action, Connection, type ConnectionState } from "../src/sdk/connection.ts";
import { type Measured, Route } from "../src/sdk/regions.ts";

const START = {
  voice: "chipmunk",
  user: "alice",
  sampleRate: 24_000,
  params: {},
  takeover: false,
  token: null,
};
const LIVE = {
  type: "live",
  session: "s1",
  role: "lead",
  voice: "chipmunk",
  latency_ms: 20,
  latency_samples: 480,
  resume: "token-1",
};

const edge = (region: string, rttMs: number): Measured => ({
  name: `${region}-1`,
  region,
  url: `http://${region}`,
  rttMs,
});
const SF = edge("sf", 12);
const TOKYO = edge("tokyo", 110);

function make(overrides: Partial<typeof START> = {}, edges: Measured[] = [SF]): Connection {
  return new Connection({ ...START, ...overrides }, 60_000, () => 1, new Route(edges));
}

function opens(actions: readonly Action[]): string[] {
  return actions.flatMap((a) => (a.do === "open" ? [a.edge.region] : []));
}

/** Looks every 50 ms, up to and with `to`; all that came of it, each with its time. */
function ticks(connection: Connection, from: number, to: number): [number, Action][] {
  const all: [number, Action][] = [];
  for (let now = from; now <= to; now += 50) {
    for (const action of connection.tick(now)) all.push([now, action]);
  }
  return all;
}

function states(actions: readonly Action[]): ConnectionState[] {
  return actions.flatMap((a) => (a.do === "state" ? [a.state] : []));
}

function sent(actions: readonly Action[]): Record<string, unknown>[] {
  return actions.flatMap((a) =>
    a.do === "send" ? [JSON.parse(a.text) as Record<string, unknown>] : [],
  );
}

function live(connection = make()): Connection {
  connection.connect(0);
  connection.opened(0);
  connection.received(JSON.stringify(LIVE), 10);
  return connection;
}

const wire = (event: object) => JSON.stringify({ session: "s1", ...event });
const refusal = (code: string, retryable = true) =>
  wire({ type: "error", code, message: "m", retryable });

describe("Connection", () => {
  it("sends start first, without what is not set", () => {
    const connection = make();
    connection.connect(0);
    expect(sent(connection.opened(0))[0]).toEqual({
      type: "start",
      voice: "chipmunk",
      user: "alice",
      sample_rate: 24_000,
    });
  });

  it("follows queued, loading and live", () => {
    const connection = make();
    connection.connect(0);
    connection.opened(0);
    const queued = wire({ type: "queued", position: 2, eta_s: 8, resume: "t" });
    const loading = wire({ type: "loading", progress: 0.4, eta_s: null, resume: "t" });
    expect(states(connection.received(queued, 1))).toEqual([
      { name: "queued", position: 2, etaS: 8 },
    ]);
    expect(states(connection.received(loading, 2))).toEqual([
      { name: "loading", progress: 0.4, etaS: null },
    ]);
    expect(states(connection.received(JSON.stringify(LIVE), 3))[0]).toMatchObject({
      name: "live",
      role: "lead",
      latencySamples: 480,
    });
  });

  it("passes a listener's labels on, and waits for no audio of it", () => {
    const connection = make();
    connection.connect(0);
    connection.opened(0);
    const listening = wire({ ...LIVE, kind: "listen" });
    expect(states(connection.received(listening, 5))[0]).toMatchObject({ listens: true });
    const label = {
      type: "label",
      session: "s1",
      label: "speech",
      score: 0.9,
      at_sample: 480,
      from_sample: 160,
      lasts: true,
    };
    const actions = connection.received(JSON.stringify(label), 10);
    expect(actions).toEqual([{ do: "event", event: label }]);
    for (let now = 20; now < 800; now += 10) connection.sentAudio(now);
    const pinged = ticks(connection, 50, 800).flatMap(([, action]) => sent([action]));
    expect(pinged).toEqual([]);
  });

  describe("while the understudy performs", () => {
    const covered = wire({ ...LIVE, role: "understudy" });
    const lead = (progress: number, eta_s: number | null) =>
      wire({ type: "loading", progress, eta_s, resume: "t" });
    const line = wire({ type: "queued", position: 2, eta_s: 40, resume: "t" });
    const start = (...texts: string[]) => {
      const connection = make();
      connection.connect(0);
      connection.opened(0);
      const seen = texts.map((text, at) => states(connection.received(text, at))[0]);
      return { connection, seen };
    };

    it("stays live, with the progress of the lead", () => {
      const { seen } = start(covered, lead(0.4, 6), line);
      expect(seen).toMatchObject([
        { name: "live", role: "understudy", lead: null },
        { name: "live", role: "understudy", lead: { kind: "loading", progress: 0.4, etaS: 6 } },
        { name: "live", role: "understudy", lead: { kind: "queued", position: 2, etaS: 40 } },
      ]);
    });

    it("still knows what it heard of the lead before", () => {
      const { seen } = start(lead(0.1, 9), covered);
      expect(seen[1]).toMatchObject({ name: "live", lead: { kind: "loading", progress: 0.1 } });
    });

    it("lets the lead take over, and takes it for lost when it loads again", () => {
      const { seen } = start(covered, lead(0.9, 1), JSON.stringify(LIVE), lead(0, 10), covered);
      expect(seen.slice(2)).toMatchObject([
        { name: "live", role: "lead", lead: null },
        { name: "loading", progress: 0, etaS: 10 },
        { name: "live", role: "understudy", lead: { kind: "loading", progress: 0, etaS: 10 } },
      ]);
    });

    it("knows nothing of the lead after a lost connection", () => {
      const { connection } = start(covered, lead(0.9, 1));
      connection.lost(1000);
      connection.opened(1200);
      expect(states(connection.received(lead(0.2, 8), 1300))).toEqual([
        { name: "loading", progress: 0.2, etaS: 8 },
      ]);
    });
  });

  it("comes back with the token and the newest params", () => {
    const connection = live();
    connection.setParams({ pitch: 3 });
    expect(states(connection.lost(1000))[0]).toMatchObject({ name: "reconnecting", attempt: 1 });
    expect(connection.retry(1200)).toEqual([{ do: "open", edge: SF }]);
    expect(sent(connection.opened(1200))[0]).toMatchObject({
      resume: "token-1",
      params: { pitch: 3 },
    });
  });

  it("backs off, up to 4 s, and starts afresh after success", () => {
    const connection = live();
    const waits: number[] = [];
    for (let k = 0; k < 7; k++) {
      for (const action of connection.lost(1000 + k)) {
        if (action.do === "retry") waits.push(action.inMs);
      }
    }
    expect(waits).toEqual([200, 400, 800, 1600, 3200, 4000, 4000]);
    connection.opened(2000);
    connection.received(JSON.stringify(LIVE), 2010);
    expect(connection.lost(3000)).toContainEqual({ do: "retry", inMs: 200 });
  });

  it("gives up after its time", () => {
    const connection = live();
    connection.lost(1000);
    expect(states(connection.lost(70_000))).toEqual([
      { name: "ended", reason: "lost", error: null },
    ]);
  });

  it("says unreachable when it never got through", () => {
    const connection = make();
    connection.connect(0);
    expect(states(connection.lost(10))).toEqual([
      { name: "ended", reason: "unreachable", error: null },
    ]);
  });

  it("ends on a refusal, with its code", () => {
    const connection = make();
    connection.connect(0);
    connection.opened(0);
    connection.received(refusal("already_live"), 5);
    const [state] = states(connection.lost(6));
    expect(state).toMatchObject({
      name: "ended",
      reason: "error",
      error: { code: "already_live" },
    });
  });

  it("waits for its own old session to go after a lost connection", () => {
    const connection = live();
    connection.lost(1000);
    connection.opened(1200);
    connection.received(refusal("already_live"), 1210);
    expect(states(connection.lost(1220))[0]).toMatchObject({ name: "reconnecting" });
  });

  it("takes bad params while live as a warning", () => {
    const connection = live();
    const actions = connection.received(refusal("bad_params", false), 50);
    expect(actions).toMatchObject([{ do: "warn", error: { code: "bad_params" } }]);
    expect(connection.takesAudio).toBe(true);
  });

  it("moves a stream here once, and never steals it back", () => {
    const connection = live(make({ takeover: true }));
    connection.lost(1000);
    expect(sent(connection.opened(1200))[0]).not.toHaveProperty("takeover");
  });

  it("ends when taken over, and tries again when the server shuts down", () => {
    const over = wire({ type: "ended", reason: "taken_over", lead_s: 1, understudy_s: 0 });
    expect(states(live().received(over, 50))).toMatchObject([
      { name: "ended", reason: "taken_over" },
    ]);
    const shutdown = wire({ type: "ended", reason: "shutdown", lead_s: 1, understudy_s: 0 });
    expect(states(live().received(shutdown, 50))).toMatchObject([{ name: "reconnecting" }]);
  });

  it("sends no audio after stop, and waits for ended, but not for ever", () => {
    const connection = live();
    expect(sent(connection.stop(100))).toEqual([{ type: "stop" }]);
    expect(connection.takesAudio).toBe(false);
    expect(connection.tick(1000)).toEqual([]);
    expect(states(connection.tick(9000))).toMatchObject([{ name: "ended", reason: "stopped" }]);
  });

  it("measures the round trip, and takes silence for a dead line", () => {
    const connection = live();
    const [ping] = sent(connection.tick(1001));
    expect(ping).toMatchObject({ type: "ping" });
    expect(connection.received(wire({ type: "pong", id: ping!.id }), 1031)).toEqual([
      { do: "roundTrip", ms: 30 },
    ]);
    const later = ticks(connection, 1100, 6600);
    const lost = later.find(([, action]) => action.do === "state");
    expect(lost).toMatchObject([6050, { state: { name: "reconnecting", to: null } }]);
  });

  describe("with edges in several regions", () => {
    const both = () => make({}, [SF, TOKYO]);

    it("begins at the nearest that opens", () => {
      const connection = both();
      expect(opens(connection.connect(0))).toEqual(["sf"]);
      const [close, open] = connection.lost(5);
      expect([close, open]).toEqual([{ do: "close" }, { do: "open", edge: TOKYO }]);
      expect(states(connection.lost(9))).toMatchObject([{ name: "ended", reason: "unreachable" }]);
    });

    it("waits no longer than a second for an edge that does not answer", () => {
      const connection = both();
      connection.connect(0);
      expect(ticks(connection, 50, 950)).toEqual([]);
      expect(opens(connection.tick(1000))).toEqual(["tokyo"]);
    });

    it("comes back where it was if that opens in time", () => {
      const connection = live(both());
      expect(connection.lost(1000)).toMatchObject([
        { do: "close" },
        { do: "state", state: { name: "reconnecting", attempt: 1, to: null } },
        { do: "retry", inMs: 100 },
      ]);
      expect(opens(connection.retry(1100))).toEqual(["sf"]);
      expect(ticks(connection, 1150, 1350)).toEqual([]);
      expect(sent(connection.opened(1390))[0]).toMatchObject({ resume: "token-1" });
    });

    it("resumes at the next one if it is refused, or is silent for 300 ms", () => {
      const connection = live(both());
      connection.lost(1000);
      connection.retry(1100);
      const [, state, open] = connection.lost(1101);
      expect(state).toMatchObject({ state: { attempt: 2, to: "tokyo" } });
      expect(open).toEqual({ do: "open", edge: TOKYO });
      expect(sent(connection.opened(1400))[0]).toMatchObject({ resume: "token-1" });
      connection.received(JSON.stringify({ ...LIVE, resume: "token-2" }), 1450);
      expect(connection.edge).toBe(TOKYO);

      connection.lost(5000);
      connection.retry(5100);
      const hop = ticks(connection, 5150, 5600).find(([, { do: what }]) => what === "open");
      expect(hop).toMatchObject([5550, { edge: SF }]); // four round trips of 110 ms
      expect(sent(connection.opened(5600))[0]).toMatchObject({ resume: "token-2" });
    });

    it("finds a dead region out, and is at the next one, in a second and a half", () => {
      const connection = live(both());
      for (let now = 50; now <= 1000; now += 50) {
        connection.sentAudio(now);
        connection.heardAudio(now);
        connection.tick(now);
      }
      const seen: [number, Action][] = [];
      for (let now = 1050; now <= 2700; now += 50) {
        connection.sentAudio(now);
        for (const action of connection.tick(now)) seen.push([now, action]);
      }
      const tried = seen.flatMap(([at, a]) => (a.do === "open" ? [[at, a.edge.region]] : []));
      expect(tried).toEqual([
        [2250, "sf"],
        [2550, "tokyo"],
      ]);
    });

    it("backs off once a round", () => {
      const connection = live(both());
      const waits: (number | string)[] = [];
      for (let k = 0; k < 6; k++) {
        for (const action of connection.lost(1000 + k)) {
          if (action.do === "retry") waits.push(action.inMs);
          if (action.do === "open") waits.push(action.edge.region);
        }
      }
      expect(waits).toEqual([100, "tokyo", 400, "tokyo", 800, "tokyo"]);
    });

    it("goes on at once where the edge has said that it goes", () => {
      const connection = live(both());
      const shutdown = wire({ type: "ended", reason: "shutdown", lead_s: 1, understudy_s: 0 });
      expect(states(connection.received(shutdown, 1000))).toMatchObject([{ to: "tokyo" }]);
      expect(opens(connection.retry(1100))).toEqual(["tokyo"]);
    });

    it("tries another edge where one is overloaded, but not where the session is refused", () => {
      const connection = both();
      connection.connect(0);
      connection.opened(5);
      connection.received(refusal("overloaded"), 6);
      expect(opens(connection.lost(7))).toEqual(["tokyo"]);
      connection.opened(120);
      connection.received(refusal("already_live"), 130);
      expect(states(connection.lost(131))).toMatchObject([
        { name: "ended", error: { code: "already_live" } },
      ]);
    });

    it("does not race round the edges while lines are lost at once", () => {
      const connection = live(both());
      connection.lost(1000);
      connection.retry(1100);
      connection.opened(1110);
      connection.received(JSON.stringify(LIVE), 1120);
      expect(opens(connection.lost(1130))).toEqual(["tokyo"]);
    });
  });

  it("keeps a line that is only slow, and judges it more slowly after a false alarm", () => {
    const connection = live(make({}, [SF, TOKYO]));
    const silence = (from: number, to: number) => {
      const lost: number[] = [];
      for (let now = from; now <= to; now += 50) {
        connection.sentAudio(now);
        if (connection.tick(now).some(({ do: what }) => what === "close")) lost.push(now);
        if (lost.length > 0) break;
      }
      return lost;
    };
    for (let now = 50; now < 1000; now += 50) {
      connection.heardAudio(now);
      connection.tick(now);
    }
    expect(silence(1000, 4000)).toEqual([2200]);
    connection.opened(2250); // the same edge, at once: it had been there all along
    connection.received(JSON.stringify(LIVE), 2260);
    connection.heardAudio(2280);
    expect(silence(2300, 6000)).toEqual([4700]);
  });
});
