// The life of a connection: what to send, when to try again, what state to show. Sans-I/O and pure
// of clocks: the worker (threads/stream.worker.ts) owns the socket and passes the time in.
import { LineWatch } from "./line.ts";
import {
  type ClientMessage,
  decode,
  type EndReason,
  encode,
  type Params,
  type Role,
  type ServerMessage,
} from "./protocol.ts";
import type { Failure, Measured, Route } from "./regions.ts";

/** What the session waits for: a place in line, or a worker that is starting. */
export type Coming =
  | { readonly kind: "queued"; readonly position: number; readonly etaS: number | null }
  | { readonly kind: "loading"; readonly progress: number; readonly etaS: number | null };

export type ConnectionState =
  | { readonly name: "connecting" }
  | { readonly name: "queued"; readonly position: number; readonly etaS: number | null }
  | { readonly name: "loading"; readonly progress: number; readonly etaS: number | null }
  | {
      readonly name: "live";
      readonly role: Role;
      readonly voice: string;
      readonly latencyMs: number;
      readonly latencySamples: number;
      readonly listens: boolean;
      /** While the understudy performs: how far the lead is. Null: not known, or not coming. */
      readonly lead: Coming | null;
    }
  | {
      readonly name: "reconnecting";
      readonly attempt: number;
      readonly retryInMs: number;
      /** The region it is tried in, where that is not the one that was lost. */
      readonly to: string | null;
    }
  | {
      readonly name: "ended";
      readonly reason: EndReason | "unreachable" | "lost";
      readonly error: WireError | null;
    };

/** An error event as it came; errors.ts makes a sentence of it. */
export interface WireError {
  readonly code: string;
  readonly detail: string;
  readonly retryable: boolean;
}

export type Action =
  /** Open a socket to this edge; the one before it, if any, is given up. */
  | { readonly do: "open"; readonly edge: Measured }
  | { readonly do: "send"; readonly text: string }
  | { readonly do: "close" }
  | { readonly do: "retry"; readonly inMs: number }
  | { readonly do: "state"; readonly state: ConnectionState }
  | { readonly do: "event"; readonly event: ServerMessage }
  | { readonly do: "roundTrip"; readonly ms: number }
  | { readonly do: "warn"; readonly error: WireError };

export interface StartFields {
  readonly voice: string;
  readonly user: string;
  readonly sampleRate: number;
  readonly params: Params;
  readonly takeover: boolean;
  readonly token: string | null;
}

const PING_EVERY_MS = 1000;
const STOP_WITHIN_MS = 4000;
const FIRST_RETRY_MS = 200;
const LONGEST_RETRY_MS = 4000;
/** Where there are other edges, the first retry is at once; this spreads the clients of one. */
const SPREAD_MS = 100;
/** A line that was lost so soon after it carried the session counts as one more failed try. */
const STEADY_MS = 500;
const LATE_MS = 300;
/** Errors of an edge, not of the session: another edge may do better. */
const ERRORS_OF_EDGE = ["overloaded", "internal"];
/** After a lost connection the server may hold our own old session for a while. */
const OWN_SESSION_MS = 20_000;

export class Connection {
  private params: Params;
  private resume: string | null = null;
  private takeover: boolean;
  private open = false;
  private openingSince: number | null = null;
  private known = false;
  private stopping = false;
  private over = false;
  private attempt = 0;
  private lostAt: number | null = null;
  private lostRegion = "";
  private joinedAt: number | null = null;
  /** Whether it was lost by our own judgement, not by a close. */
  private silentLoss = false;
  /** The edge has said that it goes: there is no use in coming back to it first. */
  private leaving = false;
  private lookedAt: number | null = null;
  private stopAt = 0;
  private nextPing = 0;
  private pingId = 0;
  private readonly pings = new Map<number, number>();
  private readonly line = new LineWatch();
  private error: WireError | null = null;
  private performing: (ConnectionState & { name: "live" }) | null = null;
  private coming: Coming | null = null;

  constructor(
    private readonly start: StartFields,
    private readonly giveUpMs: number,
    /** 0 to 1: spreads the retries of many clients. */
    private readonly random: () => number,
    private readonly route: Route,
  ) {
    this.params = start.params;
    this.takeover = start.takeover;
  }

  /** Whether the socket takes audio now. */
  get takesAudio(): boolean {
    return this.open && !this.stopping && !this.over;
  }

  /** Where the session is, or is tried next. */
  get edge(): Measured {
    return this.route.edge;
  }

  connect(now: number): Action[] {
    return [{ do: "state", state: { name: "connecting" } }, this.tryOpen(now)];
  }

  private tryOpen(now: number): Action {
    this.openingSince = now;
    this.lookedAt = now;
    return { do: "open", edge: this.route.edge };
  }

  opened(now: number): Action[] {
    this.open = true;
    this.openingSince = null;
    this.line.opened(now);
    this.nextPing = now + PING_EVERY_MS;
    this.pings.clear();
    const { voice, user, sampleRate, token } = this.start;
    const message: ClientMessage = {
      type: "start",
      voice,
      user,
      sample_rate: sampleRate,
      params: this.params,
      takeover: this.takeover,
      resume: this.resume,
      token,
    };
    return [this.send(message), this.ping(now)];
  }

  /** A message of audio went out. */
  sentAudio(now: number): void {
    this.line.sentAudio(now);
  }

  /** A message of audio came. */
  heardAudio(now: number): void {
    this.line.heardAudio(now);
  }

  /** Newer measurements, or more edges. */
  remeasure(order: readonly Measured[]): void {
    this.route.remeasure(order);
  }

  received(text: string, now: number): Action[] {
    this.line.heardText(now);
    const event = decode(text);
    if (event === null || this.over) return [];
    if (event.type !== "error" && event.type !== "ended") {
      this.error = null;
      this.known = true;
    }
    switch (event.type) {
      case "queued":
        this.resume = event.resume;
        return this.awaits({ kind: "queued", position: event.position, etaS: event.eta_s }, now);
      case "loading":
        this.resume = event.resume;
        return this.awaits({ kind: "loading", progress: event.progress, etaS: event.eta_s }, now);
      case "live":
        this.resume = event.resume;
        // The news of the lead from before `live` still hold while the understudy covers for it.
        if (event.role === "lead") this.coming = null;
        this.performing = {
          name: "live",
          role: event.role,
          voice: event.voice,
          latencyMs: event.latency_ms,
          latencySamples: event.latency_samples,
          listens: event.kind === "listen",
          lead: this.coming,
        };
        // A listener owes no audio.
        if (event.kind !== "listen") this.line.performing(event.latency_ms);
        return this.joined(this.performing, now);
      case "pong": {
        const sent = this.pings.get(event.id);
        this.pings.delete(event.id);
        if (sent === undefined) return [];
        this.line.roundTrip(now - sent);
        return [{ do: "roundTrip", ms: now - sent }];
      }
      case "usage":
      case "label":
        return [{ do: "event", event }];
      case "error":
        this.error = { code: event.code, detail: event.message, retryable: event.retryable };
        // Not fatal in answer to `params`; if it is, the server closes next and `lost` ends it.
        return event.code === "bad_params" && this.known ? [{ do: "warn", error: this.error }] : [];
      case "ended":
        return this.ended(event, now);
    }
  }

  /** While the understudy performs this is about the lead; else nobody performs until `live`. */
  private awaits(coming: Coming, now: number): Action[] {
    this.coming = coming;
    if (this.performing?.role === "understudy") {
      this.performing = { ...this.performing, lead: coming };
      return this.joined(this.performing, now);
    }
    this.performing = null;
    this.line.waiting();
    const { etaS } = coming;
    return this.joined(
      coming.kind === "queued"
        ? { name: "queued", position: coming.position, etaS }
        : { name: "loading", progress: coming.progress, etaS },
      now,
    );
  }

  /** A slot, or a place in the queue: back in the session, so retries start afresh. */
  private joined(state: ConnectionState, now: number): Action[] {
    if (this.lostAt !== null && this.silentLoss && this.route.returns) this.line.falseAlarm(now);
    this.joinedAt ??= now;
    this.lostAt = null;
    this.silentLoss = false;
    this.route.joined();
    // The other stream has ended; after a lost connection we must not push out a third one.
    this.takeover = false;
    return [{ do: "state", state }];
  }

  private ended(event: ServerMessage & { type: "ended" }, now: number): Action[] {
    const final: Action = { do: "event", event };
    if (event.reason === "error") return [final, ...this.failed(now)];
    if (!this.stopping && (event.reason === "shutdown" || event.reason === "gone")) {
      this.leaving = event.reason === "shutdown";
      return [final, ...this.lost(now)];
    }
    return [
      final,
      ...this.finish({ name: "ended", reason: event.reason as EndReason, error: null }),
    ];
  }

  /** The socket closed, or did not open, for whatever reason. */
  lost(now: number): Action[] {
    return this.gone(now, "refused");
  }

  private gone(now: number, how: Failure): Action[] {
    if (this.over) return [];
    this.open = false;
    this.openingSince = null;
    if (this.error !== null) return this.failed(now);
    if (this.stopping) return this.finish({ name: "ended", reason: "stopped", error: null });
    if (this.known) return this.again(now, how);
    return this.elsewhere(now, how, { name: "ended", reason: "unreachable", error: null });
  }

  /** Before there is a session: each edge is tried once. */
  private elsewhere(
    now: number,
    how: Failure,
    last: ConnectionState & { name: "ended" },
  ): Action[] {
    this.route.failed(how);
    if (this.route.round > 0) return this.finish(last);
    return [{ do: "close" }, this.tryOpen(now)];
  }

  private failed(now: number): Action[] {
    const error = this.error;
    this.error = null;
    this.open = false;
    const last = { name: "ended", reason: "error", error } as const;
    if (this.stopping) return this.finish(last);
    const since = this.lostAt === null ? null : now - this.lostAt;
    const ours = error?.code === "already_live" && since !== null && since < OWN_SESSION_MS;
    const passing = error?.code === "overloaded" && since !== null;
    if (ours || passing) return this.again(now, "refused");
    if (!this.route.several || !ERRORS_OF_EDGE.includes(error?.code ?? "")) {
      return this.finish(last);
    }
    if (!this.known) return this.elsewhere(now, "refused", last);
    return this.route.round > 0 ? this.finish(last) : this.again(now, "refused");
  }

  private again(now: number, how: Failure): Action[] {
    const steady = this.joinedAt !== null && now - this.joinedAt >= STEADY_MS;
    const fresh = this.lostAt === null && (steady || this.attempt === 0);
    this.joinedAt = null;
    this.performing = null;
    this.coming = null;
    if (this.lostAt === null) this.lostRegion = this.route.edge.region;
    this.lostAt ??= now;
    if (now - this.lostAt > this.giveUpMs) {
      return this.finish({ name: "ended", reason: "lost", error: null });
    }
    if (fresh) {
      this.attempt = 0;
      this.silentLoss = how === "silent";
      this.route.lost();
      if (this.leaving && this.route.several) this.route.failed("refused");
      this.leaving = false;
    } else {
      this.route.failed(how);
    }
    this.attempt += 1;
    const retryInMs = this.wait(fresh, how);
    const { region } = this.route.edge;
    // Round and round the list, names would only flicker.
    const known = region === this.lostRegion || region === "" || this.route.round > 0;
    const to = known ? null : region;
    const state = { name: "reconnecting", attempt: this.attempt, retryInMs, to } as const;
    return [
      { do: "close" },
      { do: "state", state },
      retryInMs === 0 ? this.tryOpen(now) : { do: "retry", inMs: retryInMs },
    ];
  }

  /** Back-off is for full rounds; within one, the next edge is tried at once. */
  private wait(fresh: boolean, how: Failure): number {
    const { several, round, startsRound } = this.route;
    if (several && fresh) return how === "silent" ? 0 : Math.round(SPREAD_MS * this.random());
    if (several && !startsRound) return 0;
    const longest = Math.min(FIRST_RETRY_MS * 2 ** round, LONGEST_RETRY_MS);
    return Math.round(longest * (0.5 + 0.5 * this.random()));
  }

  private finish(state: ConnectionState): Action[] {
    this.over = true;
    this.open = false;
    return [{ do: "close" }, { do: "state", state }];
  }

  /** The time for a retry has come, or the network is back. */
  retry(now: number): Action[] {
    return this.over || this.open || this.stopping ? [] : [this.tryOpen(now)];
  }

  setParams(params: Params): Action[] {
    this.params = { ...this.params, ...params };
    return this.takesAudio ? [this.send({ type: "params", params })] : [];
  }

  stop(now: number): Action[] {
    if (this.over || this.stopping) return [];
    this.stopping = true;
    this.stopAt = now;
    if (!this.open) return this.finish({ name: "ended", reason: "stopped", error: null });
    return [this.send({ type: "stop" })];
  }

  /** Call every 50 ms. */
  tick(now: number): Action[] {
    if (this.over) return [];
    if (!this.open) return this.opening(now);
    if (this.stopping) {
      if (now - this.stopAt <= STOP_WITHIN_MS) return [];
      return this.finish({ name: "ended", reason: "stopped", error: null });
    }
    const verdict = this.line.look(now);
    if (verdict === "dead") return this.gone(now, "silent");
    if (verdict === "well" && now < this.nextPing) return [];
    this.nextPing = now + PING_EVERY_MS;
    return [this.ping(now)];
  }

  private opening(now: number): Action[] {
    if (this.openingSince === null) return [];
    const lateMs = Math.max(0, now - (this.lookedAt ?? now) - LATE_MS);
    this.lookedAt = now;
    // Time that we slept through is not held against the edge.
    this.openingSince += lateMs;
    if (now - this.openingSince < this.route.openWithinMs) return [];
    return this.gone(now, "silent");
  }

  private ping(now: number): Action {
    this.pingId += 1;
    this.pings.set(this.pingId, now);
    return this.send({ type: "ping", id: this.pingId });
  }

  private send(message: ClientMessage): Action {
    return { do: "send", text: encode(message) };
  }
}
