// The life of a connection: what to send, when to try again, what state to show. Sans-I/O and pure
// of clocks: the worker (threads/stream.worker.ts) owns the socket and passes the time in.
import {
  type ClientMessage,
  decode,
  type EndReason,
  encode,
  type Params,
  type Role,
  type ServerMessage,
} from "./protocol.ts";

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
      /** While the understudy performs: how far the lead is. Null: not known, or not coming. */
      readonly lead: Coming | null;
    }
  | { readonly name: "reconnecting"; readonly attempt: number; readonly retryInMs: number }
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
  | { readonly do: "open" }
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
/** The server answers pings at once and reports use every second: this long without is a dead line. */
const DEAD_AFTER_MS = 5000;
const STOP_WITHIN_MS = 4000;
const FIRST_RETRY_MS = 200;
const LONGEST_RETRY_MS = 4000;
/** After a lost connection the server may hold our own old session for a while. */
const OWN_SESSION_MS = 20_000;

export class Connection {
  private params: Params;
  private resume: string | null = null;
  private takeover: boolean;
  private open = false;
  private known = false;
  private stopping = false;
  private over = false;
  private attempt = 0;
  private lostAt: number | null = null;
  private heardAt = 0;
  private stopAt = 0;
  private nextPing = 0;
  private pingId = 0;
  private readonly pings = new Map<number, number>();
  private error: WireError | null = null;
  private performing: (ConnectionState & { name: "live" }) | null = null;
  private coming: Coming | null = null;

  constructor(
    private readonly start: StartFields,
    private readonly giveUpMs: number,
    /** 0 to 1: spreads the retries of many clients. */
    private readonly random: () => number,
  ) {
    this.params = start.params;
    this.takeover = start.takeover;
  }

  /** Whether the socket takes audio now. */
  get takesAudio(): boolean {
    return this.open && !this.stopping && !this.over;
  }

  connect(): Action[] {
    return [{ do: "state", state: { name: "connecting" } }, { do: "open" }];
  }

  opened(now: number): Action[] {
    this.open = true;
    this.heardAt = now;
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

  received(text: string, now: number): Action[] {
    this.heardAt = now;
    const event = decode(text);
    if (event === null || this.over) return [];
    if (event.type !== "error" && event.type !== "ended") {
      this.error = null;
      this.known = true;
    }
    switch (event.type) {
      case "queued":
        this.resume = event.resume;
        return this.awaits({ kind: "queued", position: event.position, etaS: event.eta_s });
      case "loading":
        this.resume = event.resume;
        return this.awaits({ kind: "loading", progress: event.progress, etaS: event.eta_s });
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
          lead: this.coming,
        };
        return this.joined(this.performing);
      case "pong": {
        const sent = this.pings.get(event.id);
        this.pings.delete(event.id);
        return sent === undefined ? [] : [{ do: "roundTrip", ms: now - sent }];
      }
      case "usage":
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
  private awaits(coming: Coming): Action[] {
    this.coming = coming;
    if (this.performing?.role === "understudy") {
      this.performing = { ...this.performing, lead: coming };
      return this.joined(this.performing);
    }
    this.performing = null;
    const { etaS } = coming;
    return this.joined(
      coming.kind === "queued"
        ? { name: "queued", position: coming.position, etaS }
        : { name: "loading", progress: coming.progress, etaS },
    );
  }

  /** A slot, or a place in the queue: back in the session, so retries start afresh. */
  private joined(state: ConnectionState): Action[] {
    this.attempt = 0;
    this.lostAt = null;
    // The other stream has ended; after a lost connection we must not push out a third one.
    this.takeover = false;
    return [{ do: "state", state }];
  }

  private ended(event: ServerMessage & { type: "ended" }, now: number): Action[] {
    const final: Action = { do: "event", event };
    if (event.reason === "error") return [final, ...this.failed(now)];
    if (!this.stopping && (event.reason === "shutdown" || event.reason === "gone")) {
      return [final, ...this.lost(now)];
    }
    return [
      final,
      ...this.finish({ name: "ended", reason: event.reason as EndReason, error: null }),
    ];
  }

  /** The socket closed, for whatever reason. */
  lost(now: number): Action[] {
    if (this.over) return [];
    this.open = false;
    if (this.error !== null) return this.failed(now);
    if (this.stopping) return this.finish({ name: "ended", reason: "stopped", error: null });
    if (!this.known) return this.finish({ name: "ended", reason: "unreachable", error: null });
    return this.again(now);
  }

  private failed(now: number): Action[] {
    const error = this.error;
    this.error = null;
    this.open = false;
    const since = this.lostAt === null ? null : now - this.lostAt;
    const ours = error?.code === "already_live" && since !== null && since < OWN_SESSION_MS;
    const passing = error?.code === "overloaded" && since !== null;
    if ((ours || passing) && !this.stopping) return this.again(now);
    return this.finish({ name: "ended", reason: "error", error });
  }

  private again(now: number): Action[] {
    this.lostAt ??= now;
    this.performing = null;
    this.coming = null;
    if (now - this.lostAt > this.giveUpMs) {
      return this.finish({ name: "ended", reason: "lost", error: null });
    }
    const longest = Math.min(FIRST_RETRY_MS * 2 ** this.attempt, LONGEST_RETRY_MS);
    const retryInMs = Math.round(longest * (0.5 + 0.5 * this.random()));
    this.attempt += 1;
    return [
      { do: "close" },
      { do: "state", state: { name: "reconnecting", attempt: this.attempt, retryInMs } },
      { do: "retry", inMs: retryInMs },
    ];
  }

  private finish(state: ConnectionState): Action[] {
    this.over = true;
    this.open = false;
    return [{ do: "close" }, { do: "state", state }];
  }

  /** The time for a retry has come, or the network is back. */
  retry(): Action[] {
    return this.over || this.open || this.stopping ? [] : [{ do: "open" }];
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

  /** Call a few times a second. */
  tick(now: number): Action[] {
    if (this.over || !this.open) return [];
    if (this.stopping && now - this.stopAt > STOP_WITHIN_MS) {
      return this.finish({ name: "ended", reason: "stopped", error: null });
    }
    if (now - this.heardAt > DEAD_AFTER_MS) return this.lost(now);
    if (this.stopping || now < this.nextPing) return [];
    this.nextPing = now + PING_EVERY_MS;
    return [this.ping(now)];
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
