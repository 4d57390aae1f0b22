// Mouth to ear in its parts: a stacked bar and a table.
import {
  LATENCY_PARTS,
  type Latency,
  type PlayoutStats,
  type Quantiles,
  type Regions,
} from "../sdk/index.ts";
import { byId, create, setText } from "./dom.ts";
import { save, settings } from "./settings.ts";
import { place, places } from "./words.ts";

const MEANINGS: Readonly<Record<(typeof LATENCY_PARTS)[number], string>> = {
  capture: "the microphone's own delay, and filling a frame",
  uplink: "half a round trip",
  queue: "waiting for the worker's next step",
  engine: "the voice's own latency, and computing it",
  downlink: "half a round trip",
  playout: "the buffer against an uneven line, and the loudspeaker's own delay",
};

function ms(value: number | undefined): string {
  if (value === undefined) return "–";
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}

export class LatencyPanel {
  private readonly root = byId<HTMLDetailsElement>("latency");
  private readonly bar = byId("latency-bar");
  private readonly segments = new Map<string, HTMLElement>();
  private readonly cells = new Map<string, { p50: HTMLElement; p95: HTMLElement }>();

  constructor() {
    this.root.open = settings.latencyOpen;
    this.root.addEventListener("toggle", () => save({ latencyOpen: this.root.open }));
    const rows = byId("latency-rows");
    for (const part of LATENCY_PARTS) {
      const segment = create("span", { class: `segment part-${part}` });
      this.segments.set(part, segment);
      this.bar.append(segment);
      const p50 = create("td", {}, "–");
      const p95 = create("td", {}, "–");
      this.cells.set(part, { p50, p95 });
      const key = create("i", { class: `key part-${part}` });
      const name = create("th", { scope: "row" }, key, part);
      rows.append(create("tr", {}, name, p50, p95, create("td", {}, MEANINGS[part])));
    }
  }

  show(latency: Latency, playout: PlayoutStats): void {
    const figure = latency.total === null ? "–" : `${Math.round(latency.total.p50)} ms`;
    setText(byId("mouth-to-ear"), figure);
    setText(byId("latency-summary"), `${figure} from mouth to ear`);
    if (!this.root.open) return;
    const spoken: string[] = [];
    for (const part of LATENCY_PARTS) {
      const quantiles = latency.parts[part];
      const cells = this.cells.get(part)!;
      this.fill(cells, quantiles);
      const value = quantiles?.p50 ?? 0;
      this.segments.get(part)!.style.setProperty("--ms", String(Math.max(0, value)));
      spoken.push(`${part} ${ms(quantiles?.p50)}`);
    }
    this.bar.setAttribute("aria-label", `Milliseconds: ${spoken.join(", ")}`);
    this.fill({ p50: byId("total-p50"), p95: byId("total-p95") }, latency.total);
    this.fill({ p50: byId("line-p50"), p95: byId("line-p95") }, latency.line);
    setText(byId("latency-health"), health(playout));
  }

  /** Null: no session. */
  showRegion(regions: Regions | null): void {
    const element = byId("region");
    setText(element, regions === null ? "" : place(regions));
    element.title = regions === null ? "" : places(regions);
  }

  private fill(cells: { p50: HTMLElement; p95: HTMLElement }, q: Quantiles | null): void {
    setText(cells.p50, ms(q?.p50));
    setText(cells.p95, ms(q?.p95));
  }
}

function health({ underruns, splicedMs, skippedMs, marginMs }: PlayoutStats): string {
  const ran = underruns === 1 ? "ran dry once" : `ran dry ${underruns} times`;
  const caughtUp = Math.round(splicedMs + skippedMs);
  return (
    `In milliseconds, over the last half minute. The playout buffer ${ran}, ` +
    `keeps ${Math.round(marginMs)} ms in reserve and has caught up ${caughtUp} ms.`
  );
}
