// Detects that the microphone hears the loudspeaker: loudness in follows loudness out, later.

const WINDOW = 300; // blocks of 10 ms
const MAX_LAG = 60;
const MIN_LAG = 8;
const SURE = 0.8;

/** Pearson's correlation of a[i] with b[i - lag]. */
export function correlation(a: readonly number[], b: readonly number[], lag: number): number {
  let n = 0;
  let sa = 0;
  let sb = 0;
  let saa = 0;
  let sbb = 0;
  let sab = 0;
  for (let i = lag; i < a.length && i - lag < b.length; i++) {
    const x = a[i]!;
    const y = b[i - lag]!;
    n += 1;
    sa += x;
    sb += y;
    saa += x * x;
    sbb += y * y;
    sab += x * y;
  }
  if (n === 0) return 0;
  const va = saa - (sa * sa) / n;
  const vb = sbb - (sb * sb) / n;
  return va <= 0 || vb <= 0 ? 0 : (sab - (sa * sb) / n) / Math.sqrt(va * vb);
}

/**
 * Loudness in dB, played and captured, on one clock. Output is an answer to input and so always
 * follows it; an echo is input that follows output, better than it does without a lag.
 */
export class EchoDetector {
  private readonly captured: number[] = [];
  private readonly played: number[] = [];

  push(capturedRms: number, playedRms: number): void {
    this.captured.push(20 * Math.log10(capturedRms + 1e-3));
    this.played.push(20 * Math.log10(playedRms + 1e-3));
    if (this.captured.length > WINDOW) this.captured.shift();
    if (this.played.length > WINDOW) this.played.shift();
  }

  get heard(): boolean {
    if (this.captured.length < WINDOW) return false;
    for (let lag = MIN_LAG; lag <= MAX_LAG; lag++) {
      if (correlation(this.captured, this.played, lag) > SURE) return true;
    }
    return false;
  }
}
