// The golden vectors that the server's tests read too.
import { describe, expect, it } from "vitest";
import { type ClientMessage, decode, encode, encodePcm, PcmDecoder } from "../src/sdk/protocol.ts";

interface Vectors {
  client: { name: string; text: string; message?: ClientMessage; error?: string }[];
  server: { name: string; text: string; message: unknown }[];
  pcm: { name: string; hex: string; samples: number[] }[];
}

const files = import.meta.glob<Vectors>("../../tests/vectors/protocol.json", {
  eager: true,
  import: "default",
});
const vectors: Vectors = Object.values(files)[0] ?? { client: [], server: [], pcm: [] };

const bytes = (hex: string) =>
  Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16)).buffer;

describe("golden vectors", () => {
  it("are there", () => {
    expect(vectors.server.length).toBeGreaterThan(0);
  });

  for (const { name, text, message } of vectors.client) {
    if (message === undefined) continue;
    it(`client: ${name}`, () => {
      // The text may hold fields that nobody knows; what is known must be the same.
      expect(JSON.parse(text)).toMatchObject(JSON.parse(encode(message)) as object);
      if (message.type !== "start") expect(JSON.parse(encode(message))).toEqual(message);
    });
  }

  for (const { name, text, message } of vectors.server) {
    it(`server: ${name}`, () => {
      expect(decode(text)).toEqual(message);
    });
  }

  for (const { name, hex, samples } of vectors.pcm) {
    it(`pcm: ${name}`, () => {
      expect([...new PcmDecoder().push(bytes(hex))]).toEqual(samples);
      if (hex.length === samples.length * 4) {
        expect(new Uint8Array(encodePcm(Int16Array.from(samples)))).toEqual(
          new Uint8Array(bytes(hex)),
        );
      }
    });
  }
});

describe("decode", () => {
  it("is null for what it does not know", () => {
    expect(decode("{")).toBeNull();
    expect(decode("[]")).toBeNull();
    expect(decode('{"type":"curtain","session":"s"}')).toBeNull();
    expect(decode('{"type":"toString","session":"s"}')).toBeNull();
    expect(decode('{"type":"pong","session":"s","id":"7"}')).toBeNull();
  });
});

describe("PcmDecoder", () => {
  it("joins samples that were cut in half", () => {
    const decoder = new PcmDecoder();
    const all = new Uint8Array(encodePcm(Int16Array.from([1, -2, 300, -32768])));
    const heard = [
      ...decoder.push(all.slice(0, 3).buffer),
      ...decoder.push(all.slice(3, 4).buffer),
      ...decoder.push(all.slice(4, 4).buffer),
      ...decoder.push(all.slice(4, 7).buffer),
      ...decoder.push(all.slice(7).buffer),
    ];
    expect(heard).toEqual([1, -2, 300, -32768]);
  });
});
