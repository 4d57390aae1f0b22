// Which moves are news, and what kind they are. Pure.
import type { Move } from "./fleet-data.ts";

/** Older news are listed, but not drawn. */
const FRESH_S = 5;

/** "first": a session takes its first place. Planned: both places overlap, without a gap. */
export type MoveKind = "first" | "planned" | "unplanned";

export function kindOf({ source, why }: Move): MoveKind {
  if (source === null) return "first";
  // The understudy jumps in only for a lead that is gone.
  return why === "crash" || why === "understudy" ? "unplanned" : "planned";
}

export class MoveNews {
  private seen: number | null = null;

  /** The moves to draw: unseen and fresh. The first answer's are history. */
  take(moves: readonly Move[], nowS: number): readonly Move[] {
    const newest = moves.at(-1)?.seq ?? this.seen ?? 0;
    const { seen } = this;
    this.seen = newest;
    // A smaller number than before: the server has started anew.
    if (seen === null || newest < seen) return [];
    return moves.filter((move) => move.seq > seen && nowS - move.at_s < FRESH_S);
  }
}
