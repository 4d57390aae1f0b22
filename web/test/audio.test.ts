import { describe, expect, it } from "vitest";
import { EchoDetector } from "../src/sdk/audio/echo.ts";
import { Envelope } from "../src/sdk/audio/envelope.ts";
import { fft } from "../src/sdk/audio/fft.ts";
import { type Frame, Framer } from "../src/sdk/audio/framer.ts";
import { HowlDetector } from "../src/sdk/audio/howl.ts";
import { Recorder } from "../src/sdk/audio/recorder.ts";
import { findSplice } from "../src/sdk/audio/splice.ts";
import { encodeWav } from "../src/sdk/audio/wav.ts";
import { SlidingWindow } from "../src/sdk/audio/window.ts";
import { LatencyMeter } from "../src/sdk/latency.ts";
import { toInt16 } from "../src/sdk/protocol.ts";
import { CaptureMap, Relay } from "../src/sdk/threads/relay.ts";

const RATE = 24_000;
const tone = (hz: number, n: number, level = 0.3) =>
  Int16Array.from({ length: n }, (_, i) => level * 32767 * Math.sin((2 * Math.PI * hz * i) / RATE));

describe("Framer", () => {
  it("loses nothing and says where each frame stands", () => {
    const frames: Frame[] = [];
    const framer = new Framer(240, (frame) => frames.push(frame));
    for (let k = 0; k < 15; k++) {
      const block = Float32Array.from({ length: 128 }, (_, i) => k * 128 + i);
      framer.push(block, 128, 1000 + k * 128);
    }
    expect(frames.map((f) => f.position)).toEqual(
      [0, 1, 2, 3, 4, 5, 6, 7].map((k) => 1000 + k * 240),
    );
    expect(frames[3]!.samples[7]).toBe(3 * 240 + 7);
  });

  it("takes a missing input for silence", () => {
    const frames: Frame[] = [];
    const framer = new Framer(128, (frame) => frames.push(frame));
    framer.push(null, 128, 0);
    expect(frames[0]!.samples.every((x) => x === 0)).toBe(true);
  });
});

describe("findSplice", () => {
  it("finds the pitch period", () => {
    const x = Float32Array.from(tone(200, 600), (v) => v / 32768);
    const splice = findSplice(x, 120, 60, 288);
    expect(splice!.lag % 120).toBe(0);
    expect(splice!.similarity).toBeGreaterThan(0.99);
  });

  it("takes all it may of silence", () => {
    expect(findSplice(new Float32Array(500), 120, 60, 288)).toEqual({ lag: 288, similarity: 1 });
  });
});

describe("Envelope", () => {
  it("puts the same instant under the same index, whatever the chunks are", () => {
    const even = new Envelope(RATE);
    const odd = new Envelope(RATE);
    const pcm = tone(300, 2400);
    even.push(pcm, 4800);
    for (let at = 0; at < 2400; at += 77) odd.push(pcm.subarray(at, at + 77), 4800 + at);
    const blocks = even.take();
    expect(blocks[0]!.index).toBe(20);
    expect(odd.take()).toEqual(blocks);
  });
});

describe("HowlDetector", () => {
  const feed = (pcm: Int16Array) => {
    const detector = new HowlDetector(RATE);
    let howls = 0;
    for (let at = 0; at < pcm.length; at += 240) {
      if (detector.push(pcm.subarray(at, at + 240))) howls += 1;
    }
    return howls;
  };

  it("hears a steady loud tone within a second", () => {
    expect(feed(tone(1240, RATE))).toBeGreaterThan(0);
  });

  it("leaves a voice, noise and quiet tones alone", () => {
    const voice = Int16Array.from({ length: RATE * 3 }, (_, i) => {
      let x = 0;
      for (let h = 1; h < 12; h++) x += Math.sin((2 * Math.PI * 150 * h * i) / RATE) / Math.sqrt(h);
      return 4000 * x;
    });
    expect(feed(voice)).toBe(0);
    let seed = 1;
    const noise = Int16Array.from({ length: RATE * 3 }, () => {
      seed = (seed * 48271) % 2147483647;
      return (seed / 2147483647 - 0.5) * 20000;
    });
    expect(feed(noise)).toBe(0);
    expect(feed(tone(1240, RATE * 2, 0.01))).toBe(0);
  });
});

describe("EchoDetector", () => {
  /** Rhythmic speech: a pulse train with a wandering pitch, in syllables. */
  const speech = (seconds: number, hz: number) => {
    const x = new Float64Array(seconds * RATE);
    let phase = 0;
    let ring = 0;
    for (let i = 0; i < x.length; i++) {
      const t = i / RATE;
      const melody = Math.sin(2 * Math.PI * 0.7 * t) + Math.sin(2 * Math.PI * 0.43 * t * t * 0.1);
      phase += (hz * (1 + 0.12 * melody)) / RATE;
      const pulse = phase >= 1 ? 1 : 0;
      phase -= pulse;
      ring = 0.95 * ring + pulse;
      x[i] = ring * Math.max(0, Math.sin(2 * Math.PI * 2 * t));
    }
    return x;
  };
  const run = (echoGain: number) => {
    const mouth = speech(14, 130);
    const answerDelay = Math.round(0.07 * RATE);
    const answer = speech(14, 195);
    const voice = Float64Array.from(answer, (_, i) => answer[i - answerDelay] ?? 0);
    const delay = Math.round(0.18 * RATE);
    const detector = new EchoDetector(RATE);
    let heard = false;
    for (let at = 0; at < mouth.length; at += 240) {
      const pcm = (f: (i: number) => number) =>
        Int16Array.from({ length: 240 }, (_, i) => 8000 * f(at + i));
      detector.play(pcm((i) => voice[i]!));
      heard = detector.push(pcm((i) => mouth[i]! + echoGain * (voice[i - delay] ?? 0))) || heard;
    }
    return heard;
  };

  it("hears the voice come back through the microphone", () => {
    expect(run(0.3)).toBe(true);
  });

  it("does not take the same rhythm for an echo", () => {
    expect(run(0)).toBe(false);
  });
});

describe("fft", () => {
  it("agrees with the definition", () => {
    const x = Float64Array.from({ length: 16 }, (_, i) => Math.sin(i * i));
    const re = x.slice();
    const im = new Float64Array(16);
    fft(re, im);
    for (let k = 0; k < 16; k++) {
      let want = 0;
      for (let n = 0; n < 16; n++) want += x[n]! * Math.cos((2 * Math.PI * k * n) / 16);
      expect(re[k]).toBeCloseTo(want, 10);
    }
  });
});

describe("CaptureMap", () => {
  it("follows dropped frames", () => {
    const map = new CaptureMap();
    map.sentFrame(1000, 240);
    map.sentFrame(1240, 240);
    map.sentFrame(1960, 240);
    expect(map.runs(240, 480)).toEqual([
      { from: 0, to: 240, captured: 1240 },
      { from: 240, to: 480, captured: 1960 },
    ]);
    expect(map.runs(600, 60)).toEqual([{ from: 0, to: 60, captured: 2080 }]);
  });
});

describe("Relay", () => {
  it("records both sides aligned, sample for sample", () => {
    const relay = new Relay(RATE);
    relay.captured(0, tone(100, 240), false);
    relay.record();
    relay.restart();
    const echoes: ArrayBuffer[] = [];
    for (let k = 1; k <= 10; k++) echoes.push(relay.captured(k * 240, tone(50 * k, 240), true)!);
    for (const bytes of echoes) relay.answered(bytes);
    const { input, output } = relay.finishRecording()!;
    expect(input.length).toBe(2400);
    expect(output).toEqual(input);
  });
});

describe("labels", () => {
  it("lie where their samples were captured, dropped frames and all", () => {
    const relay = new Relay(16_000);
    for (const position of [16_000, 16_160, 48_000, 48_160]) {
      relay.captured(position, tone(100, 160), true);
    }
    const event = {
      type: "label",
      session: "s",
      label: "speech",
      score: 0.9,
      lasts: true,
    } as const;
    expect(relay.labelled({ ...event, from_sample: 160, at_sample: 480 })).toEqual({
      label: "speech",
      score: 0.9,
      lasts: true,
      fromBlock: 101,
      atBlock: 301,
    });
  });
});

describe("Recorder", () => {
  it("leaves silence where no answer came", () => {
    const recorder = new Recorder(RATE);
    recorder.putInput(100, Int16Array.of(1, 2, 3, 4));
    recorder.putOutput(98, Int16Array.of(9, 9, 8));
    const { input, output } = recorder.finish();
    expect([...input]).toEqual([1, 2, 3, 4]);
    expect([...output]).toEqual([8, 0, 0, 0]);
  });
});

describe("encodeWav", () => {
  it("interleaves channels behind a right header", () => {
    const view = new DataView(encodeWav([Int16Array.of(1, 2), Int16Array.of(-1, -2)], 24_000));
    expect(view.byteLength).toBe(44 + 8);
    expect(view.getUint32(4, true)).toBe(44);
    expect(view.getUint16(22, true)).toBe(2);
    expect(view.getUint32(24, true)).toBe(24_000);
    expect([44, 46, 48, 50].map((at) => view.getInt16(at, true))).toEqual([1, -1, 2, -2]);
  });

  it("refuses channels of different length", () => {
    expect(() => encodeWav([new Int16Array(2), new Int16Array(3)], 8000)).toThrow(RangeError);
  });
});

describe("SlidingWindow", () => {
  it("has the quantiles of its last values", () => {
    const window = new SlidingWindow(100);
    for (let i = 0; i < 200; i++) window.push(i);
    expect(window.quantiles()).toEqual({ p50: 150, p95: 195 });
  });
});

describe("LatencyMeter", () => {
  it("splits the delay into its parts", () => {
    const meter = new LatencyMeter(10);
    meter.putRoundTrip(30);
    meter.putEngine(20);
    meter.putServer({ p50: 1, p95: 2 }, { p50: 3, p95: 4 });
    meter.putDevices(5, 12);
    const { parts, total, line } = meter.snapshot();
    expect(parts.uplink).toEqual({ p50: 15, p95: 15 });
    expect(parts.engine).toEqual({ p50: 23, p95: 24 });
    expect(parts.capture).toEqual({ p50: 15, p95: 15 });
    expect([total, line, parts.playout]).toEqual([null, null, null]);
  });
});

describe("toInt16", () => {
  it("rounds and clips", () => {
    const pcm = toInt16(Float32Array.of(0, 1, -1, 2, -2, 0.5));
    expect([...pcm]).toEqual([0, 32767, -32768, 32767, -32768, 16384]);
  });
});
