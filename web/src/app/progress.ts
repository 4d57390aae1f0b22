// A progress bar that runs on between the server's events, as the ETA says. Pure.

/** Up to here it keeps the pace of the ETA; then ever slower, for the ETA may be wrong. */
const LINEAR = 0.85;
/** Only the server can say that it is done. */
const MOST = 0.985;

/** `progress` was true `passedS` ago, with `etaS` to go. Never 1, and never less than it was. */
export function extrapolate(progress: number, etaS: number | null, passedS: number): number {
  const start = Math.min(Math.max(progress, 0), MOST);
  if (etaS === null || etaS <= 0) return start;
  const x = Math.max(0, passedS) / etaS;
  const rest = 1 - LINEAR;
  const done = x <= LINEAR ? x : LINEAR + rest * (1 - Math.exp((LINEAR - x) / rest));
  return start + (MOST - start) * done;
}
