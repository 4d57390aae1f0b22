// Asks for the fleet again and again: twice a second in sight, seldom when hidden or failing.
import { type Fleet, parseFleet } from "./fleet-data.ts";

const EVERY_MS = 500;
const HIDDEN_EVERY_MS = 10_000;
const LONGEST_RETRY_MS = 4000;
const TIMEOUT_MS = 5000;

export const UNREACHABLE = "The server does not answer; trying again.";

export interface PollerSeams {
  readonly url: string;
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>;
  readonly headers: () => Record<string, string>;
  readonly hidden: () => boolean;
  readonly onFleet: (fleet: Fleet) => void;
  readonly onTrouble: (sentence: string) => void;
  /** The key that was sent is not the server's. */
  readonly onWrongKey: (sentence: string) => void;
}

/** What a refusal says of itself; every error of the server has a sentence. */
async function sentenceOf(response: Response): Promise<string> {
  const body: unknown = await response.json().catch(() => null);
  const message = (body as { error?: { message?: unknown } } | null)?.error?.message;
  if ([401, 403, 429].includes(response.status)) {
    return typeof message === "string" ? message : "The server does not let you see the fleet.";
  }
  return UNREACHABLE;
}

export class Poller {
  private failures = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private asking = false;

  constructor(private readonly seams: PollerSeams) {}

  /** Now, and from now on. Also for when the page comes into sight again. */
  async poll(): Promise<void> {
    if (this.asking) return;
    clearTimeout(this.timer);
    this.asking = true;
    try {
      this.seams.onFleet(await this.ask());
      this.failures = 0;
    } catch (thrown) {
      this.failures += 1;
      this.seams.onTrouble(thrown instanceof Error ? thrown.message : String(thrown));
    } finally {
      this.asking = false;
      this.timer = setTimeout(() => void this.poll(), this.pauseMs());
    }
  }

  pauseMs(): number {
    const retry = Math.min(EVERY_MS * 2 ** this.failures, LONGEST_RETRY_MS);
    return this.seams.hidden() ? HIDDEN_EVERY_MS : retry;
  }

  stop(): void {
    clearTimeout(this.timer);
  }

  private async ask(): Promise<Fleet> {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    let response: Response;
    let body: unknown;
    try {
      const headers = this.seams.headers();
      response = await this.seams.fetch(this.seams.url, { cache: "no-store", headers, signal });
    } catch {
      throw new Error(UNREACHABLE);
    }
    if (!response.ok) {
      const sentence = await sentenceOf(response);
      if (response.status === 401) this.seams.onWrongKey(sentence);
      throw new Error(sentence);
    }
    try {
      body = await response.json();
    } catch {
      throw new Error(UNREACHABLE);
    }
    try {
      return parseFleet(body);
    } catch (thrown) {
      const place = thrown instanceof Error ? thrown.message : String(thrown);
      throw new Error(`The server's answer is not understood: ${place}. Reload this page.`);
    }
  }
}
