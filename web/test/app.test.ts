import { describe, expect, it } from "vitest";
import { display, stepFor } from "../src/app/format.ts";
import { Timeline } from "../src/app/timeline.ts";
import { clock, ordinal, seconds, words } from "../src/app/words.ts";
import { clientError, microphoneError, serverError } from "../src/sdk/errors.ts";
import { ERROR_CODES } from "../src/sdk/protocol.ts";

describe("words", () => {
  it("says the state", () => {
    const title = (state: Parameters<typeof words>[0]) => words(state, "Chipmunk").title;
    expect(title({ name: "queued", position: 2, etaS: 8 })).toBe("Queued: 2nd");
    expect(words({ name: "queued", position: 2, etaS: 8 }, "C").detail).toBe("About 8 s.");
    expect(title({ name: "loading", progress: 0.4, etaS: null })).toBe("Loading 40 %");
    expect(title({ name: "live", role: "lead", voice: "c", latencyMs: 20, lead: null })).toBe(
      "Live",
    );
    expect(title({ name: "ended", reason: "taken_over", error: null })).toBe("Ended: taken over");
    expect(title({ name: "ended", reason: "failed", error: clientError("no_mic") })).toBe(
      "No microphone",
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

describe("Timeline", () => {
  it("gives the same instant the same place, and null where there is nothing", () => {
    const timeline = new Timeline(8);
    timeline.push([5, 6, 7, 8, 9].map((index) => ({ index, low: -index / 10, high: 0.1, rms: 0 })));
    expect(timeline.peak(6, 8)).toBeCloseTo(0.7);
    expect(timeline.peak(10, 12)).toBeNull();
    expect(timeline.peak(0, 2)).toBeNull();
  });
});
