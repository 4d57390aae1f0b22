import { afterEach, describe, expect, it, vi } from "vitest";
import { ceiling } from "../src/fleet/chart.ts";
import { type Fleet, type Move, parseFleet, type Session } from "../src/fleet/fleet-data.ts";
import * as say from "../src/fleet/fleet-words.ts";
import { along, arc } from "../src/fleet/flights.ts";
import { History, sampleOf } from "../src/fleet/history.ts";
import { kindOf, MoveNews } from "../src/fleet/moves.ts";
import { Poller, UNREACHABLE } from "../src/fleet/poller.ts";
import { seatItems, seatSentence } from "../src/fleet/seats.ts";

const NOW = 1_732_190_000;
const WORKER = {
  id: "local-1a2b",
  model: "miku",
  revision: "9f86d081",
  region: "local",
  stage: "ready",
  progress: 1,
  eta_s: null,
  boot_s: 10.2,
  slots: 4,
  price_per_h: 0.4,
  always_on: false,
  since_s: NOW - 60,
  started_s: NOW - 70,
  seats: [{ slot: 2, session: "abc", role: "lead" }],
};
const SESSION = {
  session: "abc",
  user: "alice",
  voice: "miku",
  region: "local",
  state: "live",
  role: "lead",
  worker: "local-1a2b",
  coming: null,
  why: "",
  eta_s: null,
  started_s: NOW - 30,
  lead_s: 1.2,
  understudy_s: 3.4,
  silent_s: 0,
};
const MOVE = {
  seq: 17,
  at_s: NOW,
  session: "abc",
  voice: "miku",
  source: null,
  target: "local-77",
  why: "lead ready",
};
const ANSWER = {
  now_s: NOW,
  regions: ["local"],
  workers: [WORKER],
  sessions: [SESSION],
  moves: [MOVE],
  waiting: 2,
  bill: {
    per_h: 0.8,
    today: 1.23,
    bound_today: 1.2,
    cpu_per_h: 0.08,
    cpu_today: 0.5,
    currency: "$",
  },
  minutes: { lead_today_s: 1000, understudy_today_s: 12 },
  limits: { max_nodes: 4, budget_per_h: null, patience: 7 },
  failures: [{ model: "teto", revision: "ff00", reason: "ModuleNotFoundError: …" }],
  private: false,
};
const fleet = (change: object = {}): Fleet => parseFleet({ ...ANSWER, ...change });
const move = (seq: number, change: object = {}): Move =>
  fleet({ moves: [{ ...MOVE, seq, ...change }] }).moves[0]!;

describe("parseFleet", () => {
  it("takes the contract, and leaves out what it does not know", () => {
    expect(parseFleet({ ...ANSWER, weather: "fine" })).toEqual(ANSWER);
  });

  it.each([
    ['now_s should be a number, not "1"', { now_s: "1" }],
    ["now_s should be a number, not missing", { now_s: undefined }],
    ["workers should be a list, not {}", { workers: {} }],
    ["workers[0].stage should be loading or ready", { workers: [{ ...WORKER, stage: "gone" }] }],
    ["workers[0].seats[0].session should be", { workers: [{ ...WORKER, seats: [{ slot: 1 }] }] }],
    ["sessions[1].role should be lead or", { sessions: [SESSION, { ...SESSION, role: "extra" }] }],
    ["bill should be an object, not null", { bill: null }],
    [
      "limits.max_nodes should be a number",
      { limits: { ...ANSWER.limits, max_nodes: Number.NaN } },
    ],
  ])("says where it is wrong: %s", (sentence, change) => {
    expect(() => fleet(change)).toThrow(sentence);
  });
});

describe("words and figures", () => {
  it("write money, times and shares", () => {
    const money = [0, 0.08, 0.0123, 0.4, 12].map((n) => say.money(n, "$"));
    expect(money).toEqual(["$0.00", "$0.08", "$0.012", "$0.40", "$12.00"]);
    const since = [0, 8, 720, 11_100, 300_000].map(say.since);
    expect(since).toEqual(["1 s", "8 s", "12 min", "3 h 05", "3 days"]);
    expect([0, 0.012, 0.5].map(say.percent)).toEqual(["0 %", "1.2 %", "50 %"]);
    expect([say.heard(632), say.heard(61_920)]).toEqual(["10:32", "17 h 12"]);
  });

  it("head the page", () => {
    const now = fleet();
    expect(say.liveFigure(now)).toEqual({ value: "1", detail: "2 waiting for a lead" });
    expect(say.seatsFigure(now)).toEqual({ value: "1 of 4", detail: "on 1 GPU" });
    expect(say.understudyFigure(now).detail).toBe("1.2 % of 16:52 heard today");
    expect(say.todayFigure(now.bill)).toEqual({
      value: "$1.23",
      detail: "×1.03 of the lower bound $1.20 · CPUs $0.50",
    });
    expect(say.limitsFigure(now.limits, now.bill)).toEqual({
      value: "4 GPUs",
      detail: "no budget · patience 7 s",
    });
  });

  it("divide by nothing on an empty day", () => {
    const day = fleet({
      minutes: { lead_today_s: 0, understudy_today_s: 0 },
      bill: { ...ANSWER.bill, today: 0, bound_today: 0 },
    });
    expect(say.understudyFigure(day).detail).toBe("0 % of 0:00 heard today");
    expect(say.todayFigure(day.bill).detail).toBe("lower bound $0.00 · CPUs $0.50");
  });

  it("say what a worker does, and why a session is as it is", () => {
    const loading = { ...WORKER, stage: "loading", progress: 0.4, eta_s: 6.1 };
    expect(say.stageWords(fleet({ workers: [loading] }).workers[0]!)).toBe(
      "loading 40 %, about 6 s",
    );
    const session = { ...SESSION, why: "the lead is loading", eta_s: 6.1, coming: "local-77" };
    expect(say.whyWords(session as Session)).toBe("the lead is loading, about 6 s (local-77)");
    expect(say.whyWords(SESSION as Session)).toBe("");
  });
});

describe("seats", () => {
  it("are as many as slots, taken or free", () => {
    const { workers, sessions } = fleet();
    const items = seatItems(workers[0]!, new Map(sessions.map((s) => [s.session, s])));
    expect(items.map((item) => item.seat?.role ?? "free")).toEqual([
      "free",
      "free",
      "lead",
      "free",
    ]);
    expect(seatSentence(items[2]!)).toBe("alice · miku · lead · session abc");
    expect(seatSentence({ ...items[2]!, session: null })).toBe("lead · session abc");
  });
});

describe("moves", () => {
  it("are news once, and only fresh", () => {
    const news = new MoveNews();
    expect(news.take([move(1), move(2)], NOW)).toEqual([]);
    expect(news.take([move(2), move(3), move(4, { at_s: NOW - 60 })], NOW)).toEqual([move(3)]);
    expect(news.take([move(4)], NOW)).toEqual([]);
    // A server that has started anew counts from the beginning.
    expect(news.take([move(1)], NOW)).toEqual([]);
    expect(news.take([move(1), move(2)], NOW)).toEqual([move(2)]);
  });

  it("that come before any other are news too", () => {
    const news = new MoveNews();
    news.take([], NOW);
    expect(news.take([move(1)], NOW)).toEqual([move(1)]);
  });

  it("are planned or not", () => {
    const kind = (source: string | null, why: string) => kindOf(move(1, { source, why }));
    expect(kind(null, "understudy")).toBe("first");
    expect(kind("a", "packing")).toBe("planned");
    expect(kind("a", "crash")).toBe("unplanned");
    expect(kind("a", "understudy")).toBe("unplanned");
  });

  it("fly from seat to seat", () => {
    const [from, to] = [
      { x: 0, y: 100 },
      { x: 200, y: 100 },
    ] as const;
    const control = arc(from, to);
    expect(control.y).toBeLessThan(100);
    expect(along(from, control, to, 0)).toEqual(from);
    expect(along(from, control, to, 1)).toEqual(to);
  });
});

describe("History", () => {
  it("keeps ten minutes, one sample a second, the newest always there", () => {
    const history = new History();
    for (let s = 0; s < 900; s += 0.5) history.push(sampleOf(fleet({ now_s: NOW + s })));
    const { samples } = history;
    expect(samples.at(-1)).toEqual({ atS: NOW + 899.5, live: 1, slots: 4, perH: 0.8 });
    expect(samples.length).toBeLessThan(610);
    expect(samples[0]!.atS).toBeGreaterThanOrEqual(NOW + 299);
    expect(samples[0]!.atS).toBeLessThan(NOW + 302);
  });

  it("counts neither loading nor always-on slots as capacity", () => {
    const workers = [
      { ...WORKER, stage: "loading" },
      { ...WORKER, always_on: true },
      { ...WORKER, stage: "draining" },
    ];
    expect(sampleOf(fleet({ workers })).slots).toBe(4);
  });
});

describe("the chart's scale", () => {
  it("is round", () => {
    expect([0, 4, 5, 7, 9, 11, 37, 0.43].map((n) => ceiling(n, 0.1))).toEqual([
      0.1, 4, 5, 8, 10, 20, 40, 0.5,
    ]);
  });
});

describe("Poller", () => {
  afterEach(() => vi.useRealTimers());

  const make = (answer: () => Response | Promise<Response>) => {
    vi.useFakeTimers();
    const seen: string[] = [];
    let hidden = false;
    const poller = new Poller({
      url: "/v1/fleet",
      fetch: async (_, init) => {
        expect(init.headers).toEqual({ authorization: "Bearer k" });
        return answer();
      },
      headers: () => ({ authorization: "Bearer k" }),
      hidden: () => hidden,
      onFleet: (f) => seen.push(`fleet ${f.waiting}`),
      onTrouble: (sentence) => seen.push(sentence),
      onWrongKey: (sentence) => seen.push(`wrong key: ${sentence}`),
    });
    const hide = (value: boolean) => {
      hidden = value;
    };
    return { poller, seen, hide };
  };

  it("asks twice a second, and seldom when hidden", async () => {
    const { poller, seen, hide } = make(() => Response.json(ANSWER));
    await poller.poll();
    await vi.advanceTimersByTimeAsync(1000);
    expect(seen).toEqual(["fleet 2", "fleet 2", "fleet 2"]);
    hide(true);
    await vi.advanceTimersByTimeAsync(5500);
    expect(seen.length).toBe(4);
    poller.stop();
  });

  it("backs off while the server is away, and comes back by itself", async () => {
    let up = false;
    const { poller, seen } = make(() => {
      if (!up) throw new TypeError("failed to fetch");
      return Response.json(ANSWER);
    });
    await poller.poll();
    expect(poller.pauseMs()).toBe(1000);
    await vi.advanceTimersByTimeAsync(20_000);
    expect(poller.pauseMs()).toBe(4000);
    expect(new Set(seen)).toEqual(new Set([UNREACHABLE]));
    up = true;
    await vi.advanceTimersByTimeAsync(4000);
    expect(seen.at(-1)).toBe("fleet 2");
    expect(poller.pauseMs()).toBe(500);
    poller.stop();
  });

  it("says what a refusal says", async () => {
    const error = {
      code: "forbidden",
      message: "The fleet needs the admin key.",
      retryable: false,
    };
    const { poller, seen } = make(() => Response.json({ error }, { status: 403 }));
    await poller.poll();
    poller.stop();
    expect(seen).toEqual([error.message]);
  });

  it("tells of a wrong key", async () => {
    const error = { code: "bad_token", message: "This is not the admin key.", retryable: false };
    const { poller, seen } = make(() => Response.json({ error }, { status: 401 }));
    await poller.poll();
    poller.stop();
    expect(seen).toEqual([`wrong key: ${error.message}`, error.message]);
  });

  it("takes other failures for no answer, and says where an answer is wrong", async () => {
    const answers = [
      new Response("Bad Gateway", { status: 502 }),
      new Response("<html>"),
      Response.json({ ...ANSWER, waiting: "two" }),
    ];
    const { poller, seen } = make(() => answers.shift()!);
    for (const _ of [1, 2, 3]) await poller.poll();
    poller.stop();
    expect(seen.slice(0, 2)).toEqual([UNREACHABLE, UNREACHABLE]);
    expect(seen[2]).toContain('waiting should be a number, not "two"');
  });
});
