// Finds where a stretch of audio repeats itself, so that a whole period can be left out unheard.

export interface Splice {
  /** How many samples to leave out. */
  readonly lag: number;
  /** Normalised correlation of what is joined, -1 to 1. */
  readonly similarity: number;
}

/** A power, of samples in -1..1, below which a join cannot be heard: -54 dBFS. */
const QUIET_POWER = 4e-6;

/**
 * The best lag in `minLag..maxLag` for joining x[0..overlap) to x[lag..lag+overlap).
 * Every second sample is enough to find a pitch period, at half the cost.
 */
export function findSplice(
  x: Float32Array,
  overlap: number,
  minLag: number,
  maxLag: number,
): Splice | null {
  if (x.length < maxLag + overlap) return null;
  let head = 0;
  for (let i = 0; i < overlap; i += 2) head += x[i]! * x[i]!;
  let whole = 0;
  for (let i = 0; i < maxLag + overlap; i += 2) whole += x[i]! * x[i]!;
  if (whole / ((maxLag + overlap) / 2) < QUIET_POWER) return { lag: maxLag, similarity: 1 };
  let best: Splice | null = null;
  for (let lag = minLag; lag <= maxLag; lag++) {
    let dot = 0;
    let tail = 0;
    for (let i = 0; i < overlap; i += 2) {
      const b = x[lag + i]!;
      dot += x[i]! * b;
      tail += b * b;
    }
    const similarity = dot / Math.sqrt(head * tail + 1e-12);
    if (best === null || similarity > best.similarity) best = { lag, similarity };
  }
  return best;
}
