// What a listener heard, along the waveform it was heard in. Pure.
import type { Label } from "../sdk/index.ts";

/** A label and the blocks that it is drawn over. */
export interface Span {
  readonly label: string;
  readonly from: number;
  readonly to: number;
  readonly lasts: boolean;
  /** It says that there is nothing to hear. */
  readonly quiet: boolean;
}

const KEPT = 200;

export class LabelTrack {
  private labels: { label: Label; quiet: boolean }[] = [];

  push(label: Label, quiet: boolean): void {
    this.labels.push({ label, quiet });
    if (this.labels.length > KEPT) this.labels.shift();
  }

  /** Those to be seen in blocks from..to. What lasts is drawn to the next one, or up to `to`. */
  spans(from: number, to: number): Span[] {
    const spans: Span[] = [];
    for (const [n, { label, quiet }] of this.labels.entries()) {
      const next = this.labels[n + 1]?.label.fromBlock ?? to;
      const end = label.lasts ? Math.min(next, to) : label.atBlock;
      // A word's window may reach back into the word before it.
      const before = spans.at(-1);
      const start = Math.max(label.fromBlock, before?.to ?? label.fromBlock);
      if (end < from || start >= end) continue;
      spans.push({ label: label.label, from: start, to: end, lasts: label.lasts, quiet });
    }
    return spans;
  }

  clear(): void {
    this.labels = [];
  }
}
