// The last ten minutes, kept by the page alone. Pure.
import type { Fleet } from "./fleet-data.ts";

export const HISTORY_S = 600;
/** Finer than a pixel of the chart is of no use. */
const SAMPLE_EVERY_S = 1;

export interface Sample {
  readonly atS: number;
  readonly live: number;
  /** Slots of rented workers that are up. */
  readonly slots: number;
  readonly perH: number;
}

export function sampleOf(fleet: Fleet): Sample {
  const up = fleet.workers.filter((w) => !w.always_on && w.stage !== "loading");
  return {
    atS: fleet.now_s,
    live: fleet.sessions.filter((s) => s.role !== null).length,
    slots: up.reduce((sum, w) => sum + w.slots, 0),
    perH: fleet.bill.per_h,
  };
}

export class History {
  private kept: Sample[] = [];

  get samples(): readonly Sample[] {
    return this.kept;
  }

  push(sample: Sample): void {
    const last = this.kept.at(-1);
    // A server whose clock was set back: its past is no longer on our axis.
    if (last !== undefined && sample.atS < last.atS) this.kept = [];
    const before = this.kept.at(-2);
    // The newest sample is always the present one; it stays once a second has passed.
    if (last && before && last.atS - before.atS < SAMPLE_EVERY_S) this.kept.pop();
    this.kept.push(sample);
    while (this.kept[0]!.atS < sample.atS - HISTORY_S) this.kept.shift();
  }
}
