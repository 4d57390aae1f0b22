// Ten minutes on one canvas: sessions below the slots that are up, and what that costs an hour.
import { byId, setText } from "../app/dom.ts";
import { money } from "./fleet-words.ts";
import { HISTORY_S, type Sample } from "./history.ts";

const LABEL_PX = 16;
const AXIS_PX = 18;
const GAP_PX = 14;

/** A round number at or above: 1, 2, 4, 5, 8, 10, 20, … */
export function ceiling(value: number, least: number): number {
  if (value <= least) return least;
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 4, 5, 8, 10].find((n) => n * power >= value * 0.9999) ?? 10;
  return step * power;
}

interface Band {
  readonly top: number;
  readonly height: number;
  readonly most: number;
}

export class Chart {
  private readonly canvas = byId<HTMLCanvasElement>("chart");
  private readonly context: CanvasRenderingContext2D;
  private samples: readonly Sample[] = [];
  private currency = "$";
  private width = 0;
  private height = 0;

  constructor() {
    const context = this.canvas.getContext("2d");
    if (context === null) throw new Error("this browser has no canvas");
    this.context = context;
    new ResizeObserver(() => this.resize()).observe(this.canvas);
  }

  private resize(): void {
    const scale = devicePixelRatio;
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.canvas.width = Math.round(this.width * scale);
    this.canvas.height = Math.round(this.height * scale);
    this.context.setTransform(scale, 0, 0, scale, 0, 0);
    this.draw();
  }

  update(samples: readonly Sample[], currency: string): void {
    this.samples = samples;
    this.currency = currency;
    this.draw();
    const now = samples.at(-1);
    if (now === undefined) return;
    setText(byId("chart-live"), String(now.live));
    setText(byId("chart-slots"), String(now.slots));
    setText(byId("chart-cost"), `${money(now.perH, currency)} / h`);
  }

  private draw(): void {
    const { context, width, height, samples } = this;
    if (width === 0) return;
    context.clearRect(0, 0, width, height);
    const style = getComputedStyle(this.canvas);
    const color = (name: string) => style.getPropertyValue(name).trim();
    context.font = `11.5px ${style.fontFamily}`;
    const room = height - AXIS_PX - GAP_PX;
    const upper: Band = {
      top: 0,
      height: room * 0.62,
      most: ceiling(Math.max(...samples.map((s) => Math.max(s.slots, s.live)), 0), 4),
    };
    const lower: Band = {
      top: upper.height + GAP_PX,
      height: room * 0.38,
      most: ceiling(Math.max(...samples.map((s) => s.perH), 0), 0.1),
    };
    this.rules(upper, String(upper.most), color("--edge"), color("--ink-soft"));
    this.rules(lower, money(lower.most, this.currency), color("--edge"), color("--ink-soft"));
    this.minutes(color("--ink-soft"));
    this.steps(upper, (s) => s.slots, color("--chart-slots"), 0.16);
    this.steps(upper, (s) => s.live, color("--chart-live"), 0.4);
    this.steps(lower, (s) => s.perH, color("--chart-cost"), 0.22);
  }

  private x(atS: number): number {
    const nowS = this.samples.at(-1)?.atS ?? 0;
    return this.width - 1 - ((nowS - atS) / HISTORY_S) * (this.width - 2);
  }

  private rules({ top, height }: Band, label: string, line: string, ink: string): void {
    const { context, width } = this;
    context.fillStyle = line;
    context.fillRect(0, Math.round(top + LABEL_PX), width, 1);
    context.fillRect(0, Math.round(top + height), width, 1);
    context.fillStyle = ink;
    context.textAlign = "left";
    context.fillText(label, 0, top + LABEL_PX - 5);
  }

  private minutes(ink: string): void {
    const { context, width, height } = this;
    context.fillStyle = ink;
    for (const minute of [10, 5, 0]) {
      const x = (1 - minute / 10) * width;
      context.textAlign = minute === 10 ? "left" : minute === 0 ? "right" : "center";
      context.fillText(minute === 0 ? "now" : `−${minute} min`, x, height - 3);
    }
  }

  private steps(band: Band, value: (s: Sample) => number, ink: string, fill: number): void {
    const { context, samples } = this;
    const first = samples[0];
    if (first === undefined) return;
    const bottom = band.top + band.height;
    const y = (s: Sample) => bottom - (value(s) / band.most) * (band.height - LABEL_PX);
    const line = new Path2D();
    line.moveTo(this.x(first.atS), y(first));
    let before = first;
    for (const sample of samples) {
      line.lineTo(this.x(sample.atS), y(before));
      line.lineTo(this.x(sample.atS), y(sample));
      before = sample;
    }
    const area = new Path2D(line);
    area.lineTo(this.x(before.atS), bottom);
    area.lineTo(this.x(first.atS), bottom);
    context.fillStyle = ink;
    context.globalAlpha = fill;
    context.fill(area);
    context.globalAlpha = 1;
    context.strokeStyle = ink;
    context.lineWidth = 1.75;
    context.stroke(line);
  }
}
