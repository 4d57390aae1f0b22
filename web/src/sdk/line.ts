// Whether the line is dead: silence where audio is owed, then a ping that nobody answers. Pure of
// clocks. Never on account of ourselves: after a late look, what came meanwhile is read first.

export type Verdict = "well" | "ping" | "dead";

/** Audio is owed and none comes for this long: ask. */
const SILENT_MS = 700;
/** The server answers a ping at once: this long without anything after it is a dead line. */
const ANSWER_MS = 500;
const ROUND_TRIPS_TO_ANSWER = 3;
/** Where no audio is owed, reports and pongs come every second. */
const QUIET_MS = 4500;
/** Looks come every 50 ms: one so late says that we were asleep, throttled or busy ourselves. */
const LATE_MS = 300;
/** A throttled tab looks late each time: so many in a row, all without news, count after all. */
const LATE_LOOKS = 3;
const MOST_PATIENCE = 4;
const PATIENT_FOR_MS = 60_000;

export class LineWatch {
  private heardAt = 0;
  /** Since when audio is owed: the first that was sent after the last that came. */
  private owedSince: number | null = null;
  private live = false;
  /** A fresh line begins with the voice's latency: nothing can come before. */
  private firstAfterMs = 0;
  private suspectedAt: number | null = null;
  private lookedAt: number | null = null;
  private lateLooks = 0;
  private roundTripMs = 0;
  private patience = 1;
  private alarmAt = Number.NEGATIVE_INFINITY;

  /** A new line: its first messages go out now. */
  opened(now: number): void {
    this.heardAt = now;
    this.owedSince = null;
    this.live = false;
    this.firstAfterMs = 0;
    this.suspectedAt = null;
    this.lookedAt = now;
    this.lateLooks = 0;
    if (now - this.alarmAt > PATIENT_FOR_MS) this.patience = 1;
  }

  performing(latencyMs: number): void {
    if (!this.live) this.firstAfterMs = latencyMs;
    this.live = true;
  }

  /** Nobody performs: how much audio comes is not for sure. */
  waiting(): void {
    this.live = false;
    this.owedSince = null;
  }

  sentAudio(now: number): void {
    this.owedSince ??= now;
  }

  heardAudio(now: number): void {
    this.heardAt = now;
    this.owedSince = null;
    this.firstAfterMs = 0;
    this.suspectedAt = null;
    this.lateLooks = 0;
  }

  heardText(now: number): void {
    this.heardAt = now;
    this.lateLooks = 0;
    if (this.suspectedAt !== null) this.owedSince = null;
    this.suspectedAt = null;
  }

  roundTrip(ms: number): void {
    this.roundTripMs = ms;
  }

  /** The edge was there all along, and only slow: be slower to judge for a while. */
  falseAlarm(now: number): void {
    this.patience = Math.min(MOST_PATIENCE, this.patience * 2);
    this.alarmAt = now;
  }

  /** Call every 50 ms; a "ping" is to be sent at once. */
  look(now: number): Verdict {
    const late = this.lookedAt !== null && now - this.lookedAt > LATE_MS;
    this.lookedAt = now;
    if (late) {
      this.lateLooks += 1;
      if (this.lateLooks > LATE_LOOKS && now - this.heardAt >= QUIET_MS) return "dead";
      this.owedSince = null;
      this.suspectedAt = now;
      return "ping";
    }
    if (this.suspectedAt !== null) {
      const answerMs = Math.max(ANSWER_MS, ROUND_TRIPS_TO_ANSWER * this.roundTripMs);
      return now - this.suspectedAt >= answerMs * this.patience ? "dead" : "well";
    }
    const silentMs = SILENT_MS * this.patience + this.firstAfterMs;
    const owed = this.live && this.owedSince !== null && now - this.owedSince >= silentMs;
    if (!owed && now - this.heardAt < QUIET_MS) return "well";
    this.suspectedAt = now;
    return "ping";
  }
}
