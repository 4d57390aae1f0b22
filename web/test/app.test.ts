import { describe, expect, it } from "vitest";
import { display, stepFor } from "../src/app/format.ts";
import { LabelTrack } from "../src/app/label-track.ts";
import { extrapolate } from "../src/app/progress.ts";
import { Timeline } from "../src/app/timeline.ts";
import { totalSeconds } from "../src/app/today.ts";
import { clock, minutes, ordinal, place, seconds, takenOver, words } from "../src/app/words.ts";
import type { Coming } from "../src/sdk/connection.ts";
import { clientError, microphoneError, serverError } from "../src/sdk/errors.ts";
import { ERROR_CODES } from "../src/sdk/protocol.ts";

describe("words", () => {
  it("says the state", () => {
    const title = (state: Parameters<typeof words>[0]) => words(state, "Chipmunk").title;
    expect(title({ name: "queued", position: 2, etaS: 8 })).toBe("Queued: 2nd");
    expect(words({ name: "queued", position: 2, etaS: 8 }, "C").detail).toBe("About 8 s.");
    expect(title({ name: "loading", progress: 0.4, etaS: null })).toBe("Loading 40 %");
    expect(
      title({ name: "live", role: "lead", voice: "c", latencyMs: 20, listens: false, lead: null }),
    ).toBe("Live");
    const lost = { name: "reconnecting", attempt: 2, retryInMs: 0 } as const;
    expect(title({ ...lost, to: null })).toBe("Reconnecting");
    expect(title({ ...lost, to: "tokyo" })).toBe("Reconnecting… to tokyo");
    expect(place({ region: "sf", rttMs: 12.3, edges: [] })).toBe("sf · 12 ms");
    expect(place({ region: "sf", rttMs: 0.2, edges: [] })).toBe("sf · 1 ms");
    expect(place({ region: "sf", rttMs: null, edges: [] })).toBe("sf");
    expect(place({ region: "", rttMs: 12, edges: [] })).toBe("");
    expect(title({ name: "ended", reason: "taken_over", error: null })).toBe("Ended: taken over");
    expect(title({ name: "ended", reason: "failed", error: clientError("no_mic") })).toBe(
      "No microphone",
    );
  });

  it("says that a listener listens", () => {
    const live = { name: "live", role: "lead", voice: "l", latencyMs: 10, lead: null } as const;
    expect(words({ ...live, listens: true }, "Speech or silence")).toEqual({
      title: "Listening",
      detail: "Speech or silence hears you.",
      tone: "live",
    });
  });

  it("says who performs, and why it is not the lead", () => {
    const live = {
      name: "live",
      role: "understudy",
      voice: "miku",
      latencyMs: 40,
      listens: false,
    } as const;
    const detail = (lead: Coming | null) => words({ ...live, lead }, "Miku").detail;
    expect(words({ ...live, lead: null }, "Miku")).toEqual({
      title: "Live: the understudy performs",
      detail: "Miku is on its way and takes over by itself.",
      tone: "cover",
    });
    expect(detail({ kind: "loading", progress: 0.4, etaS: 6.1 })).toBe(
      "Miku is loading on a GPU: about 6 s.",
    );
    expect(detail({ kind: "loading", progress: 0.99, etaS: 0 })).toBe(
      "Miku is loading on a GPU: any moment now.",
    );
    expect(detail({ kind: "loading", progress: 0.4, etaS: null })).toBe(
      "Miku is loading on a GPU.",
    );
    expect(detail({ kind: "queued", position: 2, etaS: 40 })).toBe(
      "Miku’s GPUs are full: you are 2nd in line, about 40 s.",
    );
    expect(takenOver("Miku").title).toBe("Live: Miku performs");
    expect(minutes({ leadS: 75.4, understudyS: 4.2, silentS: 0, skippedS: 0 })).toBe(
      "lead 1:15 · understudy 0:04 · silent 0.0 s",
    );
    expect(minutes({ leadS: 75.4, understudyS: 0, silentS: 0, skippedS: 62 })).toBe(
      "lead 1:15 · understudy 0:00 · silent 0.0 s · skipped 1:02",
    );
  });

  it("counts", () => {
    expect([1, 2, 3, 4, 11, 12, 13, 21, 102, 111].map(ordinal)).toEqual([
      "1st",
      "2nd",
      "3rd",
      "4th",
      "11th",
      "12th",
      "13th",
      "21st",
      "102nd",
      "111th",
    ]);
    expect([clock(0), clock(75), clock(600)]).toEqual(["0:00", "1:15", "10:00"]);
    expect([seconds(0.4), seconds(8), seconds(240)]).toEqual([
      "less than a second",
      "8 s",
      "4 min",
    ]);
  });
});

describe("the bar of the lead", () => {
  it("keeps the pace of the ETA, then slows down, and is never full by itself", () => {
    expect(extrapolate(0.4, null, 99)).toBe(0.4);
    expect(extrapolate(0.5, 10, 0)).toBe(0.5);
    expect(extrapolate(0, 10, 5)).toBeCloseTo(0.4925);
    let before = 0;
    for (let s = 0; s < 60; s += 0.5) {
      const now = extrapolate(0.1, 10, s);
      expect(now).toBeGreaterThanOrEqual(before);
      before = now;
    }
    expect(before).toBeLessThan(0.99);
    expect(extrapolate(1, 0, 5)).toBeLessThan(1);
  });
});

describe("minutes of today", () => {
  it("add up over the voices, and are null for what is no usage", () => {
    const row = { user: "a", voice: "v", sessions: 1, lead_s: 60.5, understudy_s: 3 };
    expect(totalSeconds({ usage: [row, row] })).toBe(127);
    expect(totalSeconds({ usage: [] })).toBe(0);
    expect([totalSeconds(null), totalSeconds({}), totalSeconds({ usage: [{}] })]).toEqual([
      null,
      null,
      null,
    ]);
  });
});

describe("errors", () => {
  it("have a sentence that says what to do, for every code of the server", () => {
    for (const code of ERROR_CODES) {
      const error = serverError(code, "detail", true);
      expect(error.code).toBe(code);
      expect(error.message).toMatch(/[.]$/);
    }
    expect(serverError("curtain_fell", "Wait for the curtain.", true)).toMatchObject({
      code: "unknown",
      message: "Wait for the curtain.",
    });
  });

  it("know why a microphone stays shut", () => {
    const named = (name: string) => Object.assign(new Error("x"), { name });
    expect(microphoneError(named("NotAllowedError")).code).toBe("mic_denied");
    expect(microphoneError(named("NotFoundError")).code).toBe("no_mic");
    expect(microphoneError(named("NotReadableError")).code).toBe("mic_busy");
  });
});

describe("sliders", () => {
  it("step by what fits their range", () => {
    const pitch = { min: -12, max: 12, default: 0, unit: "semitones" };
    const ratio = { min: 0.5, max: 2, default: 1, unit: "ratio" };
    expect(stepFor(pitch)).toBeCloseTo(0.1);
    expect(stepFor(ratio)).toBeCloseTo(0.01);
    expect(display(3, pitch)).toBe("+3.0");
    expect(display(-3.5, pitch)).toBe("−3.5");
    expect(display(1.25, ratio)).toBe("1.25");
  });
});

describe("LabelTrack", () => {
  const label = (name: string, fromBlock: number, atBlock: number, lasts: boolean) => ({
    label: name,
    score: 0.9,
    lasts,
    fromBlock,
    atBlock,
  });
  const places = (track: LabelTrack, from: number, to: number) =>
    track.spans(from, to).map((span) => [span.label, span.from, span.to]);

  it("draws what lasts up to the next label, and the last one up to now", () => {
    const track = new LabelTrack();
    track.push(label("silence", 0, 20, true), true);
    track.push(label("speech", 50, 54, true), false);
    track.push(label("silence", 90, 110, true), true);
    expect(places(track, 0, 200)).toEqual([
      ["silence", 0, 50],
      ["speech", 50, 90],
      ["silence", 90, 200],
    ]);
    expect(places(track, 95, 200)).toEqual([["silence", 90, 200]]);
    expect(track.spans(0, 200).map((span) => span.quiet)).toEqual([true, false, true]);
    track.clear();
    expect(places(track, 0, 200)).toEqual([]);
  });

  it("draws a word where it was said, and not over the word before it", () => {
    const track = new LabelTrack();
    track.push(label("yes", 100, 160, false), false);
    track.push(label("no", 140, 240, false), false);
    expect(places(track, 0, 500)).toEqual([
      ["yes", 100, 160],
      ["no", 160, 240],
    ]);
  });
});

describe("Timeline", () => {
  it("gives the same instant the same place, and null where there is nothing", () => {
    const timeline = new Timeline(8);
    timeline.push([5, 6, 7, 8, 9].map((index) => ({ index, low: -index / 10, high: 0.1, rms: 0 })));
    expect(timeline.peak(6, 8)).toBeCloseTo(0.7);
    expect(timeline.peak(10, 12)).toBeNull();
    expect(timeline.peak(0, 2)).toBeNull();
  });
});
