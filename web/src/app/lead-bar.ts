// The bar that shows how far the lead is: smooth between the server's events.
import { byId } from "./dom.ts";
import { extrapolate } from "./progress.ts";

const STEP_MS = 100;

export interface Loading {
  readonly progress: number;
  readonly etaS: number | null;
}

export class LeadBar {
  private readonly bar = byId<HTMLProgressElement>("lead-progress");
  private loading: Loading | null = null;
  private heardAt = 0;
  private timer: ReturnType<typeof setInterval> | undefined;

  /** Null: nothing is loading, and the bar goes away. */
  show(loading: Loading | null): void {
    // The same object again is the same news, and its time goes on.
    if (loading !== null && loading === this.loading) return;
    if (loading === null || this.loading === null) this.bar.value = 0;
    this.loading = loading;
    this.heardAt = performance.now();
    this.bar.hidden = loading === null;
    clearInterval(this.timer);
    if (loading === null) return;
    this.timer = setInterval(() => this.draw(), STEP_MS);
    this.draw();
  }

  private draw(): void {
    if (this.loading === null) return;
    const { progress, etaS } = this.loading;
    const now = extrapolate(progress, etaS, (performance.now() - this.heardAt) / 1000);
    // A corrected estimate may slow the bar down but not turn it back, unless the load began anew.
    const anew = this.bar.value - now > 0.3;
    this.bar.value = anew ? now : Math.max(now, this.bar.value);
  }
}
