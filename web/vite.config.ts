// The pages: index.html at /, fleet.html at /fleet, everything else hashed under assets/.
import { loadEnv } from "vite";
import { defineConfig } from "vitest/config";

export default defineConfig(({ mode }) => {
  const server = loadEnv(mode, ".", "UNDERSTUDY_").UNDERSTUDY_URL ?? "http://127.0.0.1:8765";
  return {
    base: "./",
    build: {
      outDir: "../src/understudy/page",
      emptyOutDir: true,
      target: "es2022",
      // A strict Content-Security-Policy refuses data: URLs, so nothing is inlined.
      assetsInlineLimit: 0,
      modulePreload: { polyfill: false },
      reportCompressedSize: false,
      rolldownOptions: { input: ["index.html", "fleet.html"] },
    },
    worker: { format: "es" as const },
    server: { proxy: { "/v1": { target: server, ws: true }, "/healthz": server } },
    test: { include: ["test/**/*.test.ts"], environment: "node" },
  };
});
