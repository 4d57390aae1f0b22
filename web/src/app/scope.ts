// Draws both waveforms on one canvas: you above, the voice below, mirrored at the same instant.
import { BLOCKS_PER_S, type Block, type Label } from "../sdk/index.ts";
import { LabelTrack, type Span } from "./label-track.ts";
import { Timeline } from "./timeline.ts";

const BLOCKS_PER_BAR = 2;
const BAR_PX = 3;
const GAP_PX = 2;
const HISTORY_BLOCKS = 4096;
const LABEL_TOP_PX = 22;
const LABEL_HEIGHT_PX = 30;
const LABEL_RADIUS_PX = 6;
const LABEL_PAD_PX = 10;
const LABEL_FONT = "600 14px system-ui, sans-serif";
/** New blocks come about every 40 ms; drawing lags that much so that scrolling is even. */
const SMOOTHING = 0.08;

export class Scope {
  private readonly input = new Timeline(HISTORY_BLOCKS);
  private readonly output = new Timeline(HISTORY_BLOCKS);
  private readonly labels = new LabelTrack();
  private readonly context: CanvasRenderingContext2D;
  private readonly calm = matchMedia("(prefers-reduced-motion: reduce)");
  private right = 0;
  private drawnAt = 0;
  private running = false;
  private width = 0;
  private height = 0;

  constructor(private readonly canvas: HTMLCanvasElement) {
    const context = canvas.getContext("2d");
    if (context === null) throw new Error("this browser has no canvas");
    this.context = context;
    new ResizeObserver(() => this.resize()).observe(canvas);
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

  push(input: readonly Block[], output: readonly Block[]): void {
    this.input.push(input);
    this.output.push(output);
  }

  /** `quiet`: it says that there is nothing to hear. */
  label(label: Label, quiet: boolean): void {
    this.labels.push(label, quiet);
  }

  start(): void {
    this.labels.clear();
    this.input.clear();
    this.output.clear();
    this.right = 0;
    if (this.running) return;
    this.running = true;
    requestAnimationFrame((t) => this.frame(t));
  }

  /** Stands still at what was last said. */
  stop(): void {
    this.running = false;
  }

  private frame(now: number): void {
    if (!this.running) return;
    const elapsed = Math.min(now - this.drawnAt, 200);
    if (!this.calm.matches || elapsed >= 200) {
      this.drawnAt = now;
      this.scroll(elapsed);
      this.draw();
    }
    requestAnimationFrame((t) => this.frame(t));
  }

  /** Runs at the pace of time, gently pulled to where the audio is. */
  private scroll(elapsedMs: number): void {
    const target = this.input.newest + 1;
    if (Math.abs(target - this.right) > BLOCKS_PER_S / 2) {
      this.right = target;
      return;
    }
    this.right += (elapsedMs * BLOCKS_PER_S) / 1000;
    this.right += (target - this.right) * SMOOTHING;
  }

  private draw(): void {
    const { context, width, height } = this;
    const middle = Math.round(height / 2);
    const style = getComputedStyle(this.canvas);
    const color = (name: string) => style.getPropertyValue(name).trim();
    context.clearRect(0, 0, width, height);
    const pitch = BAR_PX + GAP_PX;
    const newestBar = this.right / BLOCKS_PER_BAR;
    const first = Math.floor(newestBar - width / pitch) - 1;
    const reach = middle - 6;
    context.fillStyle = color("--rule");
    context.fillRect(0, middle - 0.5, width, 1);
    this.drawDots(color("--rule"), pitch, newestBar);
    this.drawSeconds(color("--tick"), pitch, newestBar);
    for (const [timeline, fill, up] of [
      [this.input, color("--you"), true],
      [this.output, color("--voice"), false],
    ] as const) {
      context.fillStyle = fill;
      context.beginPath();
      for (let bar = Math.max(0, first); bar <= newestBar; bar++) {
        const peak = timeline.peak(bar * BLOCKS_PER_BAR, (bar + 1) * BLOCKS_PER_BAR);
        if (peak === null) continue;
        // A power below 1 lets quiet speech be seen as it is heard.
        const size = Math.max(1.5, Math.sqrt(Math.min(1, peak)) * reach);
        const x = width - (newestBar - bar) * pitch;
        context.roundRect(x, up ? middle - 2 - size : middle + 2, BAR_PX, size, BAR_PX / 2);
      }
      context.fill();
    }
    for (const span of this.labels.spans(first * BLOCKS_PER_BAR, this.right)) {
      this.drawLabel(span, pitch, newestBar, color);
    }
  }

  /** What was heard, below the waveform that it was heard in. */
  private drawLabel(
    span: Span,
    pitch: number,
    newestBar: number,
    color: (name: string) => string,
  ): void {
    const { context, width, height } = this;
    const x = (block: number) => width - (newestBar - block / BLOCKS_PER_BAR) * pitch;
    const left = x(span.from);
    const size = Math.max(LABEL_RADIUS_PX, x(span.to) - left - GAP_PX);
    const top = Math.round(height / 2) + LABEL_TOP_PX;
    context.fillStyle = color(span.quiet ? "--rule" : "--heard-wash");
    context.beginPath();
    context.roundRect(left, top, size, LABEL_HEIGHT_PX, LABEL_RADIUS_PX);
    context.fill();
    context.fillStyle = color(span.quiet ? "--tick" : "--voice");
    context.fillRect(left, Math.round(height / 2), 2, LABEL_TOP_PX + LABEL_HEIGHT_PX);
    context.font = LABEL_FONT;
    context.textBaseline = "middle";
    // The words stay in sight while a long span goes out to the left.
    const from = Math.max(left, 0) + LABEL_PAD_PX;
    const room = left + size - LABEL_PAD_PX - from;
    if (!span.lasts || context.measureText(span.label).width <= room) {
      context.fillStyle = color(span.quiet ? "--ink-soft" : "--voice");
      context.fillText(span.label, from, top + LABEL_HEIGHT_PX / 2);
    }
  }

  /** Where there is no sound yet: the empty stage. */
  private drawDots(color: string, pitch: number, newestBar: number): void {
    const { context, width, height } = this;
    context.fillStyle = color;
    for (let x = width - (newestBar % 1) * pitch; x > -pitch; x -= pitch) {
      context.fillRect(x, height / 2 - 3, BAR_PX, 6);
    }
  }

  private drawSeconds(color: string, pitch: number, newestBar: number): void {
    const { context, width, height } = this;
    const barsPerS = BLOCKS_PER_S / BLOCKS_PER_BAR;
    context.fillStyle = color;
    for (let s = Math.floor(newestBar / barsPerS); s > 0; s--) {
      const x = width - (newestBar - s * barsPerS) * pitch;
      if (x < 0) break;
      context.fillRect(x, height - 6, 1, 6);
    }
  }
}
